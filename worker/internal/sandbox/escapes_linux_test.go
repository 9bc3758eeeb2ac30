package sandbox_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// heldCode is the exit code of an escape that was held.
const heldCode = 42

// escape is one way out (SECURITY.md §12). try returns nil when it worked.
type escape struct {
	number int
	name   string
	open   []int // tiers above 0 that do not hold it
	try    func(w world) error
}

// heldEverywhere are the escapes that no tier lets out, and what shows that.
var heldEverywhere = map[int]string{
	8:  "inherited descriptors: TestNoDescriptorIsInherited",
	26: "endless output: TestEndlessOutputEnds (worker/internal/tool), TestLogIsCapped (worker/internal/steplog)",
	28: "survivor by setsid and double fork: TestNothingSurvivesTheMainProcess",
	29: "ignores TERM: TestTreeIsGoneAfterCancel",
	33: "suid binary: TestExit, NoNewPrivs",
	39: "links, devices and swaps during collection: TestScanDoesNotFollow, TestOpenListed (worker/internal/snapshot)",
	40: "hostile names and escapes in logs: TestScanInvalidName (worker/internal/snapshot), TestOutputThatCannotBeRedactedIsDropped (worker/internal/steplog)",
}

// escapeMain tries the escape that the environment names and ends the process.
func escapeMain(number string) {
	var w world
	if err := json.Unmarshal([]byte(os.Getenv("WORLD")), &w); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	runtime.LockOSThread()
	for _, e := range escapes {
		if strconv.Itoa(e.number) == number {
			err := e.try(w)
			fmt.Println(e.name+":", err)
			if err != nil {
				os.Exit(heldCode)
			}
			os.Exit(0)
		}
	}
	os.Exit(1)
}

var errNotThere = errors.New("what came was not of the machine")

// reads returns an act that reads a file and finds some bytes in it.
func reads(path func(world) string, want func(world) string) func(world) error {
	return func(w world) error {
		got, err := os.ReadFile(path(w))
		if err == nil && !bytes.Contains(got, []byte(want(w))) {
			err = errNotThere
		}
		return err
	}
}

func canary(w world) string { return w.Canary }

func anything(world) string { return "" }

func proc(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// answers returns an act that gets the canary from a server.
func answers(network string, address func(world) string) func(world) error {
	return func(w world) error {
		conn, err := net.DialTimeout(network, address(w), 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		got := make([]byte, len(w.Canary))
		if _, err = conn.Read(got); err == nil && string(got) != w.Canary {
			err = errNotThere
		}
		return err
	}
}

// routed returns an act that finds a way to an address of another machine. No packet is sent.
func routed(address string) func(world) error {
	return func(world) error {
		conn, err := net.Dial("udp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
}

func local(w world) string { return "127.0.0.1:" + strconv.Itoa(w.Port) }

// socket opens a socket and closes it.
func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// raw does a system call with up to five arguments and returns the descriptor or its error.
func raw(number uintptr, args ...uintptr) (int, error) {
	var a [6]uintptr
	copy(a[:], args)
	fd, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// closes closes the descriptor of a call that worked.
func closes(fd int, err error) error {
	if err == nil {
		err = unix.Close(fd)
	}
	return err
}

// stays keeps what an act has taken until a limit ends the process, and returns nil when none
// does in a long time, or when there are no limits.
func stays(w world) error {
	if w.Limited {
		<-time.After(limit / 2)
	}
	return nil
}

var escapes = []escape{
	{1, "read another process's environment", nil, reads(func(w world) string { return proc(w.Other, "environ") }, func(world) string { return "SECRET" })},
	{2, "read the worker's environment", nil, reads(func(w world) string { return proc(w.Worker, "environ") }, func(world) string { return "=" })},
	{3, "read the worker's memory", nil, func(w world) error {
		f, err := os.Open(proc(w.Worker, "mem"))
		if err == nil {
			_ = f.Close()
		}
		return err
	}},
	{4, "use the worker's descriptors", nil, func(w world) error {
		_, err := os.Readlink(proc(w.Worker, "fd/0"))
		return err
	}},
	{5, "read another step's workspace", nil, reads(func(w world) string { return filepath.Join(w.Another, "canary") }, canary)},
	{6, "read /etc/shadow", nil, reads(func(world) string { return "/etc/shadow" }, anything)},
	{7, "read a token of the machine", nil, reads(func(w world) string { return w.Token }, canary)},

	{9, "reach the metadata address", nil, routed("169.254.169.254:80")},
	{10, "reach Postgres by TCP", nil, answers("tcp", local)},
	{11, "reach Postgres by its path", nil, answers("unix", func(w world) string { return w.Socket })},
	{12, "reach storage", nil, answers("tcp4", local)},
	{13, "reach the gateway on loopback", nil, answers("tcp", func(w world) string { return "localhost:" + strconv.Itoa(w.Port) })},
	{14, "reach an abstract socket", nil, answers("unix", func(w world) string { return w.Abstract })},
	{15, "reach a server of names", nil, routed("192.0.2.53:53")},
	{16, "send by UDP", nil, func(w world) error {
		conn, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(w.Datagram))
		if err != nil {
			return err
		}
		_, err = conn.Write([]byte(w.Canary))
		return err
	}},
	{17, "connect by MPTCP", nil, func(w world) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
		if err != nil {
			return err
		}
		return unix.Connect(fd, &unix.SockaddrInet4{Port: w.Port, Addr: [4]byte{127, 0, 0, 1}})
	}},
	{18, "open a raw or a packet socket", nil, func(world) error {
		if socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) == nil {
			return nil
		}
		return socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	}},
	{19, "open a socket to the machine's host", nil, func(world) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
	{20, "list the machine's interfaces by netlink", nil, func(world) error {
		all, err := net.Interfaces()
		for _, i := range all {
			if i.Flags&net.FlagLoopback == 0 {
				return nil
			}
		}
		return errors.Join(errNotThere, err)
	}},

	{21, "bomb of forks", nil, func(w world) error {
		for range 300 {
			if err := exec.Command("sleep", "100").Start(); err != nil {
				return err
			}
		}
		return stays(w)
	}},
	{22, "take all memory", nil, func(w world) error {
		var all [][]byte
		for range 100 {
			block := bytes.Repeat([]byte{1}, 10<<20)
			all = append(all, block)
		}
		err := stays(w)
		runtime.KeepAlive(all)
		return err
	}},
	{23, "fill the disk", nil, func(w world) error {
		block := bytes.Repeat([]byte{1}, 8<<20)
		for i := range 32 {
			if err := os.WriteFile(filepath.Join(w.Own, strconv.Itoa(i)), block, 0o600); err != nil {
				return err
			}
		}
		return stays(w)
	}},
	{24, "make very many files", nil, func(w world) error {
		for i := range 20_000 {
			if err := os.WriteFile(filepath.Join(w.Own, strconv.Itoa(i)), []byte("x"), 0o600); err != nil {
				return err
			}
		}
		return stays(w)
	}},
	{25, "make a huge sparse file", nil, func(w world) error {
		path := filepath.Join(w.Own, "sparse")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(path, 1<<40)
	}},

	{27, "kill all processes", nil, func(w world) error {
		if err := unix.Kill(w.Other, 0); err != nil {
			// Held so far: then the real thing must hold as well. It may end this process.
			_ = unix.Kill(-1, unix.SIGTERM)
			return err
		}
		return unix.Kill(w.Other, unix.SIGKILL)
	}},
	{30, "trace another process", nil, func(w world) error {
		const seize = 0x4206
		if _, err := raw(unix.SYS_PTRACE, seize, uintptr(w.Other)); err == nil {
			return nil
		}
		// What watches over the command keeps rights that the command has not.
		if f, err := os.OpenFile(proc(os.Getppid(), "mem"), os.O_RDWR, 0); err == nil {
			return f.Close()
		}
		_, err := raw(unix.SYS_PTRACE, seize, uintptr(os.Getppid()))
		return err
	}},

	{31, "make a namespace of users", nil, func(world) error {
		cmd := exec.Command("/bin/true")
		cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		return cmd.Run()
	}},
	{32, "use io_uring", nil, func(world) error {
		var params [120]byte
		return closes(raw(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params))))
	}},
	{34, "mount", nil, func(w world) error {
		err := unix.Mount("tmpfs", w.Own, "tmpfs", 0, "")
		if err == nil {
			err = unix.Unmount(w.Own, unix.MNT_DETACH)
		}
		return err
	}},
	{35, "make a control group", nil, func(w world) error {
		found, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		for _, file := range append(found, "/sys/fs/cgroup/cgroup.procs") {
			dir := filepath.Join(filepath.Dir(file), filepath.Base(filepath.Dir(w.Own)))
			if os.Mkdir(dir, 0o700) == nil {
				return os.Remove(dir)
			}
		}
		return errNotThere
	}},
	{36, "set the clock", nil, func(world) error {
		var now unix.Timex
		if _, err := unix.Adjtimex(&now); err != nil {
			return err
		}
		_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: now.Tick}) // to what it is
		return err
	}},
	{37, "use bpf, perf or keys", nil, func(world) error {
		attr := [16]uint32{2, 4, 4, 1} // an array of one
		_, bpf := raw(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if bpf == nil {
			return nil
		}
		if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); err == nil {
			return nil
		}
		event := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		return closes(unix.PerfEventOpen(&event, 0, -1, -1, 0))
	}},
	{38, "type into a terminal", nil, func(world) error {
		fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return err
		}
		terminal, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		letter := byte('x')
		_, err = raw(unix.SYS_IOCTL, uintptr(terminal), unix.TIOCSTI, uintptr(unsafe.Pointer(&letter)))
		return err
	}},
	{41, "change the mode of a file of the worker's user", []int{1}, func(w world) error { return os.Chmod(w.Token, 0o644) }},
	{42, "read the arguments of another process", []int{1}, reads(func(w world) string { return proc(w.Other, "cmdline") }, func(world) string { return "sleep" })},
}
