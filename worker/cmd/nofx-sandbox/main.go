//go:build linux

// Command nofx-sandbox stands between a worker and the code of a step. A worker starts one
// for each command, from the file beside its own; people do not. It is a program of its own
// because it starts for each command, and starting a worker takes ten times as long.
package main

import "nofx.dev/worker/internal/sandbox/confine"

func main() { confine.Main() }
