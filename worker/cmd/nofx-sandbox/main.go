//go:build linux

// Command nofx-sandbox stands between a worker and the code of a step. A worker starts one
// for each command, from the file beside its own; people do not. It is a program of its own
// because it starts for each command, and starting a worker takes ten times as long.
package main

import (
	"runtime"

	"nofx.dev/worker/internal/sandbox/confine"
)

// The main thread stays with the main goroutine, so that it is never the one that gives its
// rights up: what is asked of the process as a whole, as /proc and signals do, is asked of a
// thread that has them.
func init() { runtime.LockOSThread() }

func main() { confine.Main() }
