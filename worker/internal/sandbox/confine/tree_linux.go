package confine

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Main does all that the helper does: it reads a spec from its stdin, runs the command, writes
// a report to descriptor 3, and ends when no process of the command is left.
func Main() {
	if len(os.Args) > 1 && os.Args[1] == ProbeArg {
		probe()
		return
	}
	os.Exit(help(os.Stdin, os.NewFile(3, "report")))
}

func help(control, said *os.File) int {
	spec, err := DecodeSpec(control)
	if err != nil {
		return 1 // the worker went away, nobody listens
	}
	t := tree{orders: make(chan byte, 4), deaths: make(chan death), over: make(chan string, 1)}
	// Handled, not ignored: an ignored signal stays ignored over exec.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if spec.Proxy != "" {
		err = relay(spec.Proxy)
	}
	if err == nil {
		t.main, err = launch(spec)
	}
	if err != nil {
		r := Report{Exit: Exit{Code: -1}}
		if errno, ok := err.(syscall.Errno); ok {
			r.Errno = int(errno)
		} else {
			r.Refused = err.Error()
		}
		_ = json.NewEncoder(said).Encode(r)
		return 0
	}
	go t.listen(control)
	go func() {
		for range signals {
			t.orders <- OrderEnd
		}
	}()
	go t.reap()
	go t.guard(spec)
	t.watch()
	t.exit.MaxRSS = max(t.exit.MaxRSS, t.peak.Load())
	_ = json.NewEncoder(said).Encode(Report{Exit: t.exit})
	return 0
}

// launch starts the command from a thread that has given up its rights and is kept: the
// command's Pdeathsig is bound to it. An error is a syscall.Errno when the program could not
// be started, and else says what could not be taken from it.
func launch(s Spec) (pid int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become subreaper: %w", err)
	}
	closeOnExec()
	syscall.Umask(0o022)
	if err := setLimits(s); err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	defer offerToOOMKiller()()
	// The thread below shares the helper's memory with threads that keep their rights, and the
	// command could reach that memory by /proc as its equal.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("keep the helper's memory to itself: %w", err)
	}
	started := make(chan struct{})
	var start func()
	start = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread keeps its rights: /proc and signals to the process ask it.
			go start()
			select {}
		}
		if err = restrict(s); err == nil {
			pid, err = syscall.ForkExec(string(s.Path), texts(s.Argv), &syscall.ProcAttr{
				Dir:   string(s.Dir),
				Env:   texts(s.Env),
				Files: []uintptr{null.Fd(), 1, 2},
				Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
			})
		}
		close(started)
		select {} // the thread must not end before its command
	}
	go start()
	<-started
	return pid, err
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
	deaths chan death   // closed when no child is left
	over   chan string  // a limit that was passed
	peak   atomic.Int64 // bytes of memory that all were seen to have together
}

// listen passes orders on. The worker's death closes its end of the pipe.
func (t *tree) listen(control *os.File) {
	var order [1]byte
	for {
		if n, err := control.Read(order[:]); n == 0 || err != nil {
			t.orders <- OrderKill
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
				t.exit.Code, t.exit.Killed = d.status.ExitStatus(), ending && t.exit.Over == ""
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
			case order == OrderKill:
				ending = true
				kill()
			case !ending:
				ending = true
				signalAll(descendants(os.Getpid()), syscall.SIGTERM)
				grace = time.After(Grace)
			}
		case limit := <-t.over:
			t.exit.Over = limit
			ending = true
			kill()
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
	t.exit.ReadBytes += u.Inblock * 512 // getrusage(2) counts sectors
	t.exit.WrittenBytes += u.Oublock * 512
}
