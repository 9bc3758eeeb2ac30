// Package sandbox runs the code of a step and answers for its whole process
// tree: when [Sandbox.Exec] returns, no process that the command started is left, and a
// cancelled command is gone within five seconds whatever it does.
//
// What isolates a step from its worker comes in tiers (SECURITY.md §12). In each the command
// has an explicit environment, an empty stdin, no inherited descriptors, no new privileges,
// its own session, is first in line for the out-of-memory killer, and nicer than the worker
// by 10.
//
//   - Tier 0 has nothing more. It keeps no hostile code from the worker; tests of other things
//     run so.
//   - Tier 1 is the kernel's: Landlock leaves the command its own folders, the toolchain and a
//     few devices, and none but its own processes; seccomp refuses sockets and the calls that
//     lead out; capabilities are dropped. What it does not hold: attributes, such as the mode,
//     of files that belong to the worker's user can be changed.
//   - Tier 2 is bubblewrap around that: namespaces of its own, so that nothing else is there at
//     all, with a network of its own in which only the command itself is. A command may be
//     given a proxy there: its Unix socket is mounted, and the helper passes on what comes to
//     a port of loopback (confine/relay_linux.go).
//   - Tier 3 is the administrator's: a container runtime with a kernel of its own, such as
//     gVisor or Kata, around the worker; see README.md.
//
// [Open] finds the tier out: a probe tries in each, from the highest, what code of a step
// must not be able to do, and the first one that holds is used (selftest.go).
//
// What a command's processes take is looked up in /proc, and bounded between two looks; with a
// folder of cgroup v2 the kernel counts and bounds it, command by command (cgroup_linux.go).
//
// A process cannot follow children that leave their group, session and parent; a subreaper
// can. So one helper, the program nofx-sandbox (package confine), is above each command.
// Orphans fall to it, and it ends when it has no child left. The worker holds the write end
// of the helper's stdin: the command goes through it first, the order to end later, and when
// the worker dies, however it dies, the kernel closes it and the helper kills the tree at
// once. A deadly Pdeathsig would not do here: it fires when the forking thread ends, not the
// process; nor would bubblewrap's --die-with-parent, which is one.
//
// Elsewhere than on Linux a plain process group is killed (exec_other.go); that is for
// building and trying, not for serving.
package sandbox
