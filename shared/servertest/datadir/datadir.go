// Package datadir is the directory of a server that runs as a child: kept
// between starts or temporary, locked as long as the server lives, with a secret
// that is made once.
package datadir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nofx.dev/shared/servertest/filelock"
)

// Dir is a directory that this process, and a child that was given Lock, use
// alone.
type Dir struct {
	Path      string   // absolute
	Temporary bool     // removed by Close
	Lock      *os.File // for exec.Cmd.ExtraFiles: then the lock is the child's too
}

// Open makes the directory unless it is there and locks it; a server that was
// killed a moment ago is given the time to end. An error for one that is in use
// is a [filelock.ErrHeld]. When path is empty, the directory is a temporary one
// named after server.
func Open(ctx context.Context, path, server string) (_ *Dir, err error) {
	d := &Dir{Temporary: path == ""}
	if d.Temporary {
		pattern := "nofx-" + server + "-*"
		removeAbandoned(pattern)
		d.Path, err = os.MkdirTemp("", pattern)
	} else if d.Path, err = filepath.Abs(path); err == nil {
		err = os.MkdirAll(d.Path, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make a directory for %s: %w", server, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if d.Lock, err = filelock.Wait(ctx, filepath.Join(d.Path, "lock")); err != nil {
		return nil, fmt.Errorf("is another %s running here? %w", server, err)
	}
	return d, nil
}

// Secret reads the secret called name, or makes one of 130 random bits.
func (d *Dir) Secret(name string) (string, error) {
	path := filepath.Join(d.Path, name)
	b, err := os.ReadFile(path)
	if secret := strings.TrimSpace(string(b)); err == nil && secret != "" {
		return secret, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	secret := rand.Text()
	return secret, os.WriteFile(path, []byte(secret+"\n"), 0o600)
}

// Close gives our share of the lock back, and removes a temporary directory. The
// server has ended before.
func (d *Dir) Close() {
	d.Lock.Close()
	if d.Temporary {
		os.RemoveAll(d.Path)
	}
}

// removeAbandoned removes temporary directories whose process was killed before
// its Close: older than a minute, so that none is taken that is just being made,
// and not locked, so that no server uses it.
func removeAbandoned(pattern string) {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), pattern))
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := filelock.Try(filepath.Join(dir, "lock")); err == nil {
			os.RemoveAll(dir)
			lock.Close()
		}
	}
}
