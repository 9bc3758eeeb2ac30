//go:build !linux

package usertest

import (
	"os"
	"testing"
)

// Plain calls body with an empty directory. Here it needs a user who is not root.
func Plain(t *testing.T, body func(dir string)) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("root is bound by no permissions")
	}
	body(t.TempDir())
}
