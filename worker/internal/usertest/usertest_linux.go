// Package usertest lets tests see the file permissions that a worker meets when
// it is not root, whoever runs them.
package usertest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is a user that owns nothing.
const nobody = 65534

// Plain calls body with an empty directory, as a user whom the permissions of
// files bind. That holds for what body does itself, not for goroutines it starts.
func Plain(t *testing.T, body func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		body(dir)
		return
	}
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The identity is the thread's: it is never unlocked and so ends here.
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(nobody); err != nil {
			t.Errorf("become another user: %v", err)
			return
		}
		body(dir)
	}()
	if <-done; t.Failed() {
		t.FailNow()
	}
}
