package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// gitTrees does the same to a folder of git's. What a change comes to compressed is the size
// of git's objects for the last one, where these have digests as long as ours: most of a
// directory that has changed is digests, which nothing compresses.
func (b *bench) gitTrees(ctx context.Context) (s snapshots, err error) {
	g, err := newRepository(ctx, filepath.Join(b.dir, "tree"))
	if err != nil {
		return s, err
	}
	long := []string{"git", "--git-dir=" + filepath.Join(b.dir, "long-digests"), "--work-tree=."}
	if err := g.run(append(long, "init", "-q", "--object-format=sha256")...); err != nil {
		return s, err
	}
	size := func() (kib float64, err error) {
		for _, command := range []string{"add -A", "write-tree"} {
			if err := g.run(append(long, strings.Fields(command)...)...); err != nil {
				return 0, err
			}
		}
		return sizeOf(filepath.Join(b.dir, "long-digests", "objects"))
	}
	store := func() (took float64, err error) {
		began := time.Now()
		if err = g.run("git", "add", "-A"); err == nil {
			err = g.run("git", "write-tree")
		}
		return milliseconds(time.Since(began)), err
	}
	for i := range 1 + changes {
		var before float64
		if i == changes {
			if before, err = size(); err != nil {
				return s, err
			}
		}
		if err := g.run("bash", "-e", "-c", script(i)); err != nil {
			return s, err
		}
		took, err := store()
		if err != nil {
			return s, err
		}
		s.changed = append(s.changed, took)
		if i == changes {
			after, err := size()
			if err != nil {
				return s, err
			}
			s.sent = []float64{after - before}
		}
		if err := pause(ctx, 2500*time.Millisecond); err != nil {
			return s, err
		}
	}
	for range unchanged {
		took, err := store()
		if err != nil {
			return s, err
		}
		s.same = append(s.same, took)
	}
	if err := g.run("git", "commit", "-q", "-m", "all"); err != nil {
		return s, err
	}
	for i := range undone {
		for _, step := range [][]string{
			{"git", "checkout", "-q", "--detach", "main"}, {"bash", "-e", "-c", script(1 + changes + i)}, {"git", "commit", "-q", "-a", "-m", "change"},
		} {
			if err := g.run(step...); err != nil {
				return s, err
			}
		}
		if err := pause(ctx, 2500*time.Millisecond); err != nil {
			return s, err
		}
		began := time.Now()
		if err := g.run("git", "checkout", "-q", "--detach", "main"); err != nil {
			return s, err
		}
		s.restored = append(s.restored, milliseconds(time.Since(began)))
	}
	return s, nil
}

// repository is a folder of git's, as it comes, whatever this user prefers, but that it
// never begins to clean up behind a measurement.
type repository struct {
	ctx context.Context
	dir string
}

func newRepository(ctx context.Context, dir string) (*repository, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	g := &repository{ctx, dir}
	err := g.run("git", "init", "-q", "-b", "main")
	if err == nil {
		err = g.run("git", "config", "gc.auto", "0")
	}
	return g, err
}

// run runs a program in the folder.
func (g *repository) run(command ...string) error {
	cmd := exec.CommandContext(g.ctx, command[0], command[1:]...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@localhost", "GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@localhost")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%.30s: %w: %.500s", command, err, out)
	}
	return nil
}

// sizeOf returns how many KiB the files below a folder have.
func sizeOf(dir string) (kib float64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			kib += float64(info.Size()) / 1024
		}
		return err
	})
	return kib, err
}
