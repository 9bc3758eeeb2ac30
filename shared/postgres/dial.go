package postgres

import (
	"net"
	"time"
)

// Silent connections are probed, so that a dead peer is found within 15 s even on an idle
// connection, such as one with LISTEN.
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
