package datadir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nofx.dev/shared/servertest/filelock"
)

func TestKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	d, err := Open(t.Context(), path, "thing")
	if err != nil || d.Path != path || d.Temporary {
		t.Fatalf("Open(%s) = %+v, %v", path, d, err)
	}
	secret, err := d.Secret("secret")
	if err != nil || len(secret) < 26 {
		t.Fatalf("Secret() = %q, %v, want 130 random bits", secret, err)
	}
	if info, err := os.Stat(filepath.Join(path, "secret")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the secret = %v, %v, want 0600", info, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, path, "thing"); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("Open(in use) = %v, want ErrHeld", err)
	}
	d.Close()
	if d, err = Open(t.Context(), path, "thing"); err != nil {
		t.Fatalf("Open(closed before) = %v, want nil", err)
	}
	defer d.Close()
	if again, err := d.Secret("secret"); err != nil || again != secret {
		t.Errorf("Secret() = %q, %v after a restart, want %q", again, err, secret)
	}
}

func TestTemporary(t *testing.T) {
	t.Parallel()
	d, err := Open(t.Context(), "", "thing")
	if err != nil || !d.Temporary {
		t.Fatalf("Open() = %+v, %v, want a temporary directory", d, err)
	}
	d.Close()
	if _, err := os.Stat(d.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat(after Close) = %v, want not exist", err)
	}
}

func TestAbandonedIsRemoved(t *testing.T) {
	t.Parallel()
	const pattern = "nofx-abandoned-*"
	newDir := func(age time.Duration) string {
		dir, err := os.MkdirTemp("", pattern)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	old, used, fresh := newDir(time.Hour), newDir(time.Hour), newDir(0)
	lock, err := filelock.Try(filepath.Join(used, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	removeAbandoned(pattern)
	for dir, want := range map[string]bool{old: false, used: true, fresh: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s is there = %t, want %t", dir, err == nil, want)
		}
	}
}
