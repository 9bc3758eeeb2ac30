package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProbeArg makes the helper a command that tries what code of a step must not be able to do.
const ProbeArg = "probe"

// Target is what a worker sets up for a probe to reach for, as JSON the probe's second
// argument.
type Target struct {
	PID       int    // of the worker
	File      string // holds Canary, outside of the writable folders
	Canary    string
	Port      int       // of 127.0.0.1, where the worker listens
	Sockets   [2]string // where it listens: the path of a socket, and the name of an abstract one
	Workspace string    // writable
}

// Findings are what a probe could do, as it writes them to its stdout.
type Findings struct {
	Could  []string // what it must not be able to do
	Failed []string // what it must be able to do, each with its error
}

// probe tries every act and writes its findings.
func probe() {
	var t Target
	var f Findings
	if len(os.Args) < 3 || json.Unmarshal([]byte(os.Args[2]), &t) != nil {
		f.Failed = append(f.Failed, "read its target")
	}
	runtime.LockOSThread() // ptrace and unshare are a thread's
	for _, act := range forbidden {
		if err := act.try(t); err == nil {
			f.Could = append(f.Could, act.name)
		}
	}
	for _, act := range needed {
		if err := act.try(t); err != nil {
			f.Failed = append(f.Failed, fmt.Sprintf("%s: %v", act.name, err))
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(f)
}

type act struct {
	name string
	try  func(Target) error // nil: it worked
}

var errNothing = errors.New("nothing of the worker's")

// forbidden are the acts that a sandbox of any tier must hold against.
var forbidden = []act{
	{"read a file of the worker", func(t Target) error {
		got, err := os.ReadFile(t.File)
		if err == nil && string(got) != t.Canary {
			return errNothing
		}
		return err
	}},
	{"write a file of the worker", func(t Target) error {
		f, err := os.OpenFile(t.File, os.O_WRONLY, 0)
		if err == nil {
			_ = f.Close()
		}
		return err
	}},
	{"read the environment of the worker", func(t Target) error {
		got, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", t.PID))
		if err == nil && len(got) == 0 {
			return errNothing
		}
		return err
	}},
	{"read the passwords of the machine", func(Target) error { _, err := os.ReadFile("/etc/shadow"); return err }},
	{"connect to the worker by TCP", func(t Target) error {
		return connect(unix.AF_INET, &unix.SockaddrInet4{Port: t.Port, Addr: [4]byte{127, 0, 0, 1}})
	}},
	{"connect to the worker by a socket file", func(t Target) error {
		return connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: t.Sockets[0]})
	}},
	{"connect to the worker by an abstract socket", func(t Target) error {
		return connect(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@" + t.Sockets[1]})
	}},
	{"signal the worker", func(t Target) error { return unix.Kill(t.PID, 0) }},
	{"trace the worker", func(t Target) error {
		err := call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.PID))
		if err == nil {
			_ = unix.PtraceDetach(t.PID)
		}
		return err
	}},
	{"mount", func(t Target) error {
		err := unix.Mount("tmpfs", t.Workspace, "tmpfs", 0, "")
		if err == nil {
			_ = unix.Unmount(t.Workspace, unix.MNT_DETACH)
		}
		return err
	}},
	{"make a namespace", func(Target) error { return unix.Unshare(unix.CLONE_NEWUTS) }},
	{"make a namespace of users", func(Target) error {
		// In a child: a process of several threads cannot do it itself.
		cmd := exec.Command("/bin/true")
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		if err := cmd.Start(); err != nil {
			return err
		}
		return cmd.Wait()
	}},
	{"use io_uring", func(Target) error {
		var params [120]byte
		return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
	}},
	{"load a BPF program", func(Target) error {
		var attr [64]byte
		err := call(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&attr)), 64)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EFAULT) || errors.Is(err, unix.E2BIG) {
			return nil // it was let through
		}
		return err
	}},
	{"hold a capability", func(Target) error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			return err
		}
		if data[0].Effective|data[0].Permitted|data[1].Effective|data[1].Permitted == 0 {
			return errNothing
		}
		return nil
	}},
	{"gain privileges by exec", func(Target) error {
		set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if err == nil && set == 1 {
			return errNothing
		}
		return err
	}},
}

// needed are the acts without which no step could do its work.
var needed = []act{
	{"write and read a file of the workspace", func(t Target) error {
		path := t.Workspace + "/probe"
		if err := os.WriteFile(path, []byte(t.Canary), 0o600); err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if err == nil && string(got) != t.Canary {
			return errors.New("other bytes came back")
		}
		return err
	}},
	{"start a program", func(Target) error { return exec.Command("/bin/sh", "-c", "exit 0").Run() }},
	{"write to /dev/null", func(Target) error { return os.WriteFile("/dev/null", []byte("x"), 0) }},
}

// connect connects to an address and ends the connection.
func connect(family int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, to)
}

// call does a system call of up to three arguments and returns its error.
func call(number uintptr, args ...uintptr) error {
	var a [3]uintptr
	copy(a[:], args)
	fd, _, errno := unix.Syscall(number, a[0], a[1], a[2])
	if errno != 0 {
		return errno
	}
	if number == unix.SYS_IO_URING_SETUP {
		_ = unix.Close(int(fd))
	}
	return nil
}
