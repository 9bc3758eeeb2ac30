package codehost

import "syscall"

// endWithUs has the kernel kill the child when the thread that starts it is gone.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
