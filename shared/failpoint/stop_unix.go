//go:build unix && !linux

package failpoint

import (
	"os"
	"syscall"
)

// stopSelf stops the process and returns once it is continued.
func stopSelf() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) }
