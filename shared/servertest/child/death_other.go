//go:build !linux

package child

import "syscall"

// Other systems have no such signal: there an orderly stop is all there is.
func signalOnDeath(*syscall.SysProcAttr, syscall.Signal) {}
