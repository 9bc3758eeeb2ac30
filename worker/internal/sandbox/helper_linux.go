package sandbox

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helperName, as the only argument, makes a process of this binary a helper.
const helperName = "nofx-sandbox"

func init() {
	if len(os.Args) == 1 && os.Args[0] == helperName {
		runtime.LockOSThread() // the command's Pdeathsig is bound to this thread
		os.Exit(help(os.Stdin, os.NewFile(3, "report")))
	}
}

// help does all that the helper does: it reads a spec, runs it, and ends when it has no
// child left.
func help(control, said *os.File) int {
	command, err := decodeSpec(control)
	if err != nil {
		return 1 // the worker went away, nobody listens
	}
	t := tree{orders: make(chan byte, 4), deaths: make(chan death)}
	// Handled, not ignored: an ignored signal stays ignored over exec.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if t.main, err = start(command); err != nil {
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			errno = syscall.EIO
		}
		_ = json.NewEncoder(said).Encode(report{Exit: Exit{Code: -1}, Errno: int(errno)})
		return 0
	}
	go t.listen(control)
	go func() {
		for range signals {
			t.orders <- orderEnd
		}
	}()
	go t.reap()
	t.watch()
	_ = json.NewEncoder(said).Encode(report{Exit: t.exit})
	return 0
}

// start forks the command with the properties of SECURITY.md §12, Child.
func start(s spec) (pid int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	// A set-uid program would be out of reach of our signals.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	closeOnExec()
	syscall.Umask(0o022)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	defer offerToOOMKiller()()
	return syscall.ForkExec(s.path, s.argv, &syscall.ProcAttr{
		Dir:   s.dir,
		Env:   s.env,
		Files: []uintptr{null.Fd(), 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
}

// closeOnExec keeps every descriptor but the first three from the command, also
// those that the worker itself inherited.
func closeOnExec() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	open, _ := os.ReadDir("/proc/self/fd")
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// offerToOOMKiller raises this process's badness, which a fork inherits, and
// returns what takes it back. Lowering a value one raised oneself needs no right.
func offerToOOMKiller() func() {
	const file = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(file)
	if err != nil {
		return func() {}
	}
	_ = os.WriteFile(file, []byte("1000"), 0)
	return func() { _ = os.WriteFile(file, before, 0) }
}

type death struct {
	pid    int
	status syscall.WaitStatus
	usage  syscall.Rusage
}

// tree is the command and all that came of it.
type tree struct {
	main   int
	exit   Exit
	orders chan byte
	deaths chan death // closed when no child is left
}

// listen passes orders on. The worker's death closes its end of the pipe.
func (t *tree) listen(control *os.File) {
	var order [1]byte
	for {
		if n, err := control.Read(order[:]); n == 0 || err != nil {
			t.orders <- orderKill
			return
		}
		t.orders <- order[0]
	}
}

// reap waits for children and for the orphans that fall to this subreaper. None
// left means an empty tree: the living have an unbroken line of parents up to us.
func (t *tree) reap() {
	defer close(t.deaths)
	for {
		var d death
		pid, err := syscall.Wait4(-1, &d.status, 0, &d.usage)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return
		}
		d.pid = pid
		t.deaths <- d
	}
}

// watch returns when the tree is empty, which it sees to once the main process
// has ended or an order came.
func (t *tree) watch() {
	var ending bool
	var grace, again <-chan time.Time
	pause := time.Millisecond
	kill := func() {
		signalAll(descendants(os.Getpid()), syscall.SIGKILL)
		again = time.After(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
	for {
		select {
		case d, ok := <-t.deaths:
			if !ok {
				return
			}
			t.count(d.usage)
			if d.pid == t.main {
				t.exit.Code, t.exit.Killed = d.status.ExitStatus(), ending
				if d.status.Signaled() {
					t.exit.Signal = d.status.Signal()
				}
				if !ending {
					ending = true
					again = time.After(pause) // mostly nothing is left, and that shows first
				}
			}
		case order := <-t.orders:
			switch {
			case order == orderKill:
				ending = true
				kill()
			case !ending:
				ending = true
				signalAll(descendants(os.Getpid()), syscall.SIGTERM)
				grace = time.After(Grace)
			}
		case <-grace:
			kill()
		case <-again:
			kill()
		}
	}
}

func (t *tree) count(u syscall.Rusage) {
	t.exit.CPU += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	t.exit.MaxRSS = max(t.exit.MaxRSS, u.Maxrss*1024)
}
