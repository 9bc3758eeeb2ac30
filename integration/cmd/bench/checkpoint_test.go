package main

import (
	"crypto/sha256"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// files returns the hashes of what is in a folder.
func files(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	all, root := map[string][32]byte{}, os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, path)
		if len(content) < 4096 || len(content) > 4200 {
			t.Errorf("%s has %d bytes, want 4096 and a line at the most", path, len(content))
		}
		all[path] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The scripts make what the figures say, and the same wherever they run: else
// git would be given another tree than we.
func TestScripts(t *testing.T) {
	t.Parallel()
	apply := func(dir string, i int) map[string][32]byte {
		cmd := exec.Command("bash", "-e", "-c", script(i))
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("script(%d): %v: %s", i, err, out)
		}
		return files(t, dir)
	}
	different := func(a, b map[string][32]byte) (n int) {
		for path, sum := range a {
			if b[path] != sum {
				n++
			}
		}
		return n
	}
	one, two := t.TempDir(), t.TempDir()
	filled := apply(one, 0)
	if len(filled) != 10_000 {
		t.Errorf("script(0) makes %d files, want 10000", len(filled))
	}
	changed := apply(one, 1)
	if n := different(filled, changed); n != 100 || len(changed) != len(filled) {
		t.Errorf("script(1) changes %d files and leaves %d, want 100 and %d", n, len(changed), len(filled))
	}
	apply(two, 0)
	if n := different(changed, apply(two, 1)); n != 0 {
		t.Errorf("the scripts differ in %d files from one folder to another, want none", n)
	}
}
