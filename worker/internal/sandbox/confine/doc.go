// Package confine is what the program nofx-sandbox does: it runs one command, takes rights
// from it, and sees to it that no process of it is left.
//
// Its worker writes a [Spec] to its stdin (spec.go). Main starts the command from a thread
// that has given up its rights (restrict_linux.go: resource limits, capabilities, Landlock,
// seccomp), so that the command and all that comes of it never had them, while the other
// threads, which watch over the command (tree_linux.go), keep theirs. watch_linux.go ends a
// command that takes more memory, processes or disk than it may. At its end the helper
// writes a [Report] to descriptor 3.
//
// For a command with a proxy the helper listens on loopback, and passes bytes on to the Unix
// socket of the proxy (relay_linux.go).
//
// In tier 2 the helper is the first process of the namespaces that bubblewrap made. The
// command cannot signal it there, and the kernel ends all other processes with it.
//
// As `nofx-sandbox probe` it is a command that tries what the code of a step must not be
// able to do, and reports what it could (probe_linux.go).
package confine
