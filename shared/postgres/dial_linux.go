package postgres

import (
	"strings"
	"syscall"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which the package syscall does not have.
const tcpUserTimeout = 18

// limitUnacknowledged ends a connection when sent bytes have not been acknowledged for the
// duration patience: the kernel's own timeout is a quarter of an hour, and the kernel does
// not probe while bytes are unacknowledged.
func limitUnacknowledged(network, _ string, c syscall.RawConn) (err error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	if failed := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(patience.Milliseconds()))
	}); failed != nil {
		return failed
	}
	return err
}
