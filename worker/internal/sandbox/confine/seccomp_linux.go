package confine

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refused are the system calls that code of a step has no use for, and that have led out of
// sandboxes: they fail with EPERM. Those of one architecture are in a file of its own.
var refused = slices.Concat([]uint32{
	unix.SYS_ACCT, unix.SYS_ADD_KEY, unix.SYS_ADJTIMEX, unix.SYS_BPF, unix.SYS_CHROOT, unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_SETTIME,
	unix.SYS_DELETE_MODULE, unix.SYS_FANOTIFY_INIT, unix.SYS_FINIT_MODULE, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSOPEN,
	unix.SYS_FSPICK, unix.SYS_INIT_MODULE, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_IO_URING_SETUP,
	unix.SYS_KCMP, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_KEXEC_LOAD, unix.SYS_KEYCTL, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_MIGRATE_PAGES,
	unix.SYS_MOUNT, unix.SYS_MOUNT_SETATTR, unix.SYS_MOVE_MOUNT, unix.SYS_MOVE_PAGES, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_NFSSERVCTL,
	unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_PERF_EVENT_OPEN, unix.SYS_PIDFD_GETFD,
	unix.SYS_PIVOT_ROOT, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PTRACE,
	unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_REBOOT, unix.SYS_REQUEST_KEY, unix.SYS_SETDOMAINNAME, unix.SYS_SETHOSTNAME,
	unix.SYS_SETNS, unix.SYS_SETTIMEOFDAY, unix.SYS_SWAPOFF, unix.SYS_SWAPON, unix.SYS_SYSLOG, unix.SYS_UMOUNT2, unix.SYS_UNSHARE,
	unix.SYS_USERFAULTFD, unix.SYS_VHANGUP,
}, refusedHere)

const newNamespaces = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
	unix.CLONE_NEWTIME | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS

// The offsets in the data that a filter sees (linux/seccomp.h): the low halves of arguments.
const (
	offCall = 0
	offArch = 4
	offArg0 = 16
	offArg1 = 24
	offArg2 = 32
)

func errno(e unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

var (
	allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	kill  = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

// on returns the instructions that do these if the call is that one; they end in a return.
func on(call uint32, do ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: uint8(len(do))}}, do...)
}

// filter returns the program that decides about each system call of the command. All that
// it does not name is allowed.
func filter(s Spec) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1}, kill,
		bpf.LoadAbsolute{Off: offCall, Size: 4},
		// Calls of the x32 architecture have numbers of their own.
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 1 << 30, SkipTrue: 1}, errno(unix.ENOSYS),
	}
	for _, call := range refused {
		program = append(program, on(call, errno(unix.EPERM))...)
	}
	// Its flags are in memory, where a filter cannot look; the C library falls back to clone.
	program = append(program, on(unix.SYS_CLONE3, errno(unix.ENOSYS))...)
	program = append(program, on(unix.SYS_CLONE,
		bpf.LoadAbsolute{Off: offArg0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: newNamespaces, SkipFalse: 1}, errno(unix.EPERM),
		allow)...)
	program = append(program, on(unix.SYS_IOCTL,
		bpf.LoadAbsolute{Off: offArg1, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: tiocLinux, SkipTrue: 1}, errno(unix.EPERM),
		allow)...)
	program = append(program, on(unix.SYS_SOCKET, sockets(s)...)...)
	return append(program, allow)
}

// tiocLinux pastes into a console, like TIOCSTI (ioctl_console(2)).
const tiocLinux = 0x541c

// sockets returns what is done about socket(2). Landlock knows neither UDP nor sockets with
// a path, so in tier 1 there are none but pairs; in tier 2 the network is the command's own,
// with nobody else in it.
func sockets(s Spec) []bpf.Instruction {
	families := []uint32{}
	if s.Network {
		families = []uint32{unix.AF_INET, unix.AF_INET6}
	} else if s.Tier >= 2 {
		families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6}
	}
	if len(families) == 0 {
		return []bpf.Instruction{errno(unix.EPERM)}
	}
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: offArg0, Size: 4}}
	for _, family := range families {
		program = append(program, on(family, plainSocket()...)...)
	}
	// What lists the addresses of the machine asks by netlink's route protocol.
	program = append(program, on(unix.AF_NETLINK,
		bpf.LoadAbsolute{Off: offArg2, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.NETLINK_ROUTE, SkipTrue: 1}, errno(unix.EPERM),
		allow)...)
	return append(program, errno(unix.EAFNOSUPPORT))
}

// plainSocket allows a socket of a common family, but not MPTCP's, which rules for TCP miss.
func plainSocket() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArg2, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_MPTCP, SkipTrue: 1}, errno(unix.EPERM),
		allow,
	}
}

// restrictCalls filters the system calls of the thread and of what it starts.
func restrictCalls(s Spec) error {
	raw, err := bpf.Assemble(filter(s))
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		program[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, failed := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	if failed != 0 {
		return fmt.Errorf("seccomp: %w", failed)
	}
	return nil
}
