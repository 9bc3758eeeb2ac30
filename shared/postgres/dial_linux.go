package postgres

import (
	"strings"
	"syscall"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which the package syscall does not have.
const tcpUserTimeout = 18

// limitUnacknowledged has a connection end once what was sent on it has not been
// acknowledged for as long as our patience: the kernel's own takes a quarter of an
// hour, and as long as there is something unacknowledged it does not probe.
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
