//go:build !linux

package pgserver

import (
	"errors"
	"os"
	"syscall"
)

// unprivileged: elsewhere than on Linux nobody works as root.
func unprivileged(string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("postgres refuses to run as root: start this as another user")
	}
	return nil, nil
}
