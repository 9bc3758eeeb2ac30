package confine

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openFiles is how many descriptors a process of the command may have: what select(2) can
// wait for, and what systems give a login.
const openFiles = 1024

// setLimits sets the resource limits that hold for each process of the command. They are
// set on the helper itself, which passes them on and comes near none of them.
func setLimits(s Spec) error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: openFiles}
	if s.Limits.Disk > 0 {
		limits[unix.RLIMIT_FSIZE] = uint64(s.Limits.Disk)
	}
	for resource, n := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("resource limit %d: %w", resource, err)
		}
	}
	return nil
}

// restrict takes rights from the calling thread for good, in the order that lets each step
// do its work: what the thread starts from now on has them no more. The caller has locked
// the thread. An error leaves it half restricted: nothing may be started then.
func restrict(s Spec) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if s.Tier == 0 {
		return nil
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := restrictFiles(s); err != nil {
		return err
	}
	return restrictCalls(s)
}

// dropCapabilities leaves the thread none, also where it is root's: an exec as root gives
// none back with SECBIT_NOROOT.
func dropCapabilities() error {
	// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of
	// KEEP_CAPS (linux/securebits.h).
	const secbits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7
	if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SETPCAP, 0, 0, 0); err == nil && has == 1 {
		// Without the right to do so there is nothing to be given back either.
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbits, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("secure bits: %w", err)
		}
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// LandlockABI is the least version of Landlock that isolates: from 6 on a command can be
// kept from signalling other processes of its user and from their abstract sockets.
const LandlockABI = 6

// abi returns the version of Landlock that the kernel has, 0 for none.
func abi() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// The rights on files that Landlock knows, up to version 5.
const (
	readFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	readDir  = readFile | unix.LANDLOCK_ACCESS_FS_READ_DIR
	allFile  = readFile | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	allFiles = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV<<1 - 1
	// No devices are made: what reads the folders afterwards need not meet one.
	allDir = allFiles &^ (unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)
)

// devices are those that every program may use.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// restrictFiles lets the thread use the paths of s and the devices, connect to no TCP port
// unless s has a network, and signal or reach by abstract sockets only what it starts.
func restrictFiles(s Spec) error {
	if have := abi(); have < LandlockABI {
		return fmt.Errorf("the kernel has version %d of Landlock; %d is needed", have, LandlockABI)
	}
	attr := unix.LandlockRulesetAttr{
		Handled_access_fs: allFiles,
		Scoped:            unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET,
	}
	if !s.Network && s.Tier < 2 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	defer unix.Close(int(ruleset))
	for _, rules := range []struct {
		paths     []string
		file, dir uint64
		missing   bool // may be missing
	}{
		{devices, allFile, 0, true},
		{s.Readable, readFile, readDir, true},
		{s.Writable, allFile, allDir, false},
	} {
		for _, path := range rules.paths {
			err := allowBeneath(int(ruleset), path, rules.file, rules.dir)
			if err != nil && !(rules.missing && errors.Is(err, os.ErrNotExist)) {
				return fmt.Errorf("landlock: %s: %w", path, err)
			}
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("landlock: %w", errno)
	}
	return nil
}

// allowBeneath adds a rule for a file, or for a folder and all that is below it.
func allowBeneath(ruleset int, path string, file, dir uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: file, Parent_fd: int32(fd)}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		rule.Allowed_access = dir
	}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
