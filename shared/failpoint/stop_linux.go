package failpoint

import (
	"os"
	"runtime"
	"syscall"
)

// stopSelf stops the process and returns once it is continued. The signal goes to
// this very thread: sent to the process it may stop another thread first and let
// this one run on, past the window.
func stopSelf() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP)
}
