package postgres

import (
	"net"
	"time"
)

// A connection on which nothing is heard is probed, so that one whose other end is
// gone is found within 15 s even where nobody asks anything of it, as with LISTEN.
const (
	probeAfter = 5 * time.Second
	probes     = 2
)

// dialer makes connections that notice when their other end is gone.
func dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:         timeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: probeAfter, Interval: probeAfter, Count: probes},
		Control:         limitUnacknowledged,
	}
}
