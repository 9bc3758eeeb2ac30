//go:build !linux

package postgres

import "syscall"

// limitUnacknowledged does nothing: the limit is for Linux only, where workers run.
func limitUnacknowledged(_, _ string, _ syscall.RawConn) error { return nil }
