package codehost

import "syscall"

// endWithUs makes the kernel kill the child when the thread that starts it ends.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
