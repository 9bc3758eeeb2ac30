// Package sandbox runs the code of a step and answers for its whole process
// tree: when [Exec] returns, no process that the command started is left, and a
// cancelled command is gone within five seconds whatever it does.
//
// What isolates a step from its worker comes in tiers (SECURITY.md §12). This is
// tier 0: an explicit environment, an empty stdin, no inherited descriptors, no
// new privileges, its own session, first in line for the out-of-memory killer;
// nothing that keeps hostile code of the same user away from the worker. That is
// why the tools refuse code outside development at this tier.
//
// A process cannot follow children that leave their group, session and parent;
// a subreaper can. So the worker starts itself once more under the name of
// helperName, and this helper (helper_linux.go) becomes the subreaper above one
// command. Orphans fall to it, and it ends when it has no child left. The worker
// holds the write end of the helper's stdin: the command goes through it first,
// the order to end later, and when the worker dies, however it dies, the kernel
// closes it and the helper kills the tree at once. A deadly Pdeathsig would not do
// here: it fires when the forking thread ends, not the process.
//
// The helper is chosen in this package's init, before main and before any
// package that imports net is initialised (Go initialises packages by import
// path as their imports allow, and much of net's imports sort after this
// module). Keep net out of this package's imports: a test does.
//
// Elsewhere than on Linux a plain process group is killed (exec_other.go); that
// is for building and trying, not for serving.
package sandbox
