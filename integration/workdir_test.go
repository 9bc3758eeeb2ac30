package integration_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// folders returns the directories below root.
func folders(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root {
			list = append(list, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// What a killed worker leaves on its machine goes when the next one starts, and what
// one that runs has stays.
func TestFoldersOfKilledWorkers(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{})
	for name, setting := range map[string]string{"a directory given": "NOFX_WORKSPACE_DIR", "by default": "TMPDIR"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			start := func() *harness.Process {
				w, err := s.AddWorker(t.Context(), map[string]string{"NOFX_WORKSPACE_DIR": "", setting: dir})
				if err != nil {
					t.Fatal(err)
				}
				w.AutoRestart(false)
				return w
			}
			doomed := start()
			begun := folders(t, dir)
			id := s.create(t, bash("leave", "mkdir -p module/cache; touch module/cache/file; chmod 555 module/cache module")).Run.ID
			s.await(t, id, api.RunStatusSucceeded)
			if err := doomed.Kill(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := doomed.Ended(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			left := folders(t, dir)
			if len(left) <= len(begun) {
				t.Fatalf("a killed worker leaves %v and began with %v, want what its step made", left, begun)
			}
			defer start().Stop()
			now := folders(t, dir)
			if len(now) != len(begun) {
				t.Errorf("after the next worker's start there are %v, want %d like before", now, len(begun))
			}
			defer start().Stop()
			if both := folders(t, dir); len(both) <= len(now) || slices.ContainsFunc(now, func(f string) bool { return !slices.Contains(both, f) }) {
				t.Errorf("with another worker beside it there are %v, want %v and its own", both, now)
			}
		})
	}
}

// A worker that is given a directory of somebody else's touches nothing in it.
func TestWorkerRefusesAStrangersDirectory(t *testing.T) {
	t.Parallel()
	env := filepath.Join(t.TempDir(), "env")
	s := up(t, harness.Config{EnvFile: env})
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(file, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	w := startWorker(t, env, s.Log("by-hand"), "NOFX_WORKSPACE_DIR="+dir)
	gone := func() bool {
		_, err := os.Stat(file)
		return err != nil
	}
	until(t, "the worker ends", 3*time.Minute, func() bool {
		select {
		case <-w.Done():
			return true
		default:
			return gone()
		}
	})
	if gone() {
		t.Fatal("a worker has deleted a file that was in NOFX_WORKSPACE_DIR")
	}
	log, err := os.ReadFile(s.Log("by-hand"))
	if want := "NOFX_WORKSPACE_DIR: " + dir + " is not empty"; err != nil || !strings.Contains(string(log), want) {
		t.Errorf("the worker logs %q, %v, want %q", log, err, want)
	}
}
