package confine

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// process is one entry of /proc and where it belongs.
type process struct {
	pid, parent, session int
	zombie               bool
}

// processes lists what is there on this machine.
func processes() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	names, _ := dir.Readdirnames(-1)
	_ = dir.Close()
	all := make([]process, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := stat(pid); ok {
			all = append(all, p)
		}
	}
	return all
}

func stat(pid int) (process, bool) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	// pid (name) state parent group session …, and a name may hold anything.
	f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	if len(f) < 4 {
		return process{}, false
	}
	parent, _ := strconv.Atoi(string(f[1]))
	session, _ := strconv.Atoi(string(f[3]))
	return process{pid, parent, session, f[0][0] == 'Z' || f[0][0] == 'X'}, true
}

// descendants lists the living below root, root left out.
func descendants(root int) []int {
	children := map[int][]int{}
	for _, p := range processes() {
		if !p.zombie { // without children, and beyond signals
			children[p.parent] = append(children[p.parent], p.pid)
		}
	}
	found := children[root]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}

func signalAll(pids []int, sig syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig)
	}
}

// KillTree kills all processes below root until none is left; what they start meanwhile is
// met in the next round. It gives up after half a second.
func KillTree(root int) {
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		pids := descendants(root)
		if len(pids) == 0 {
			return
		}
		signalAll(pids, syscall.SIGKILL)
	}
}

// KillStrays kills the processes that a lost helper left behind. They are children of this
// process, its subreaper, and known by their session: a command has one of its own, and
// neither helpers nor what a worker starts plainly leave the worker's.
func KillStrays() {
	self, ok := stat(os.Getpid())
	if !ok {
		return
	}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		left := 0
		for _, p := range processes() {
			if p.parent == self.pid && p.session != self.session {
				left++
				pids := append(descendants(p.pid), p.pid)
				signalAll(pids, syscall.SIGKILL)
				var status syscall.WaitStatus
				_, _ = syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil)
			}
		}
		if left == 0 {
			return
		}
	}
}
