package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// groupPrefix begins the name of a command's control group; the worker's process id follows.
const groupPrefix = "nofx-"

// prepareGroups makes ready a folder of cgroup v2 in which each command gets a control group
// of its own: the controllers that there are work below it, and groups of dead workers are
// removed.
func prepareGroups(dir string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("control groups: %s: %w", dir, err)
	}
	if stat.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("control groups: %s is no folder of cgroup v2", dir)
	}
	there, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	for _, name := range strings.Fields(string(there)) {
		switch name {
		case "cpu", "io", "memory", "pids":
		default:
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0); errors.Is(err, syscall.EBUSY) {
			return fmt.Errorf("control groups: %s has processes of its own; the kernel wants a folder without any", dir)
		} else if err != nil {
			return fmt.Errorf("control groups: %w", err)
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, groupPrefix+"*"))
	if err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	for _, group := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(group), groupPrefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			endGroup(group)
		}
	}
	return nil
}

// group is the control group of one command.
type group struct {
	dir string
	at  *os.File // dir, for the kernel to start the command in
}

// newGroup makes a control group in a folder that prepareGroups made ready. What the kernel
// cannot limit there is left to the helper.
func newGroup(dir string, l Limits) (*group, error) {
	made, err := os.MkdirTemp(dir, groupPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	for file, most := range map[string]int64{"memory.max": l.Memory, "pids.max": int64(l.Processes)} {
		path := filepath.Join(made, file)
		if _, err := os.Stat(path); err != nil || most == 0 {
			continue
		}
		if err := os.WriteFile(path, strconv.AppendInt(nil, most, 10), 0); err != nil {
			_ = os.Remove(made)
			return nil, fmt.Errorf("control group: %w", err)
		}
	}
	at, err := os.Open(made)
	if err != nil {
		_ = os.Remove(made)
		return nil, fmt.Errorf("control group: %w", err)
	}
	return &group{made, at}, nil
}

// close ends what is left in the group, corrects e by what the kernel has counted of it, and
// removes it. The helper is counted as well.
func (g *group) close(e *Exit) {
	defer endGroup(g.dir)
	_ = g.at.Close()
	if usec, ok := g.number("cpu.stat", "usage_usec"); ok {
		e.CPU = time.Duration(usec) * time.Microsecond
	}
	if peak, ok := g.number("memory.peak", ""); ok {
		e.MaxRSS = peak
	}
	if killed, ok := g.number("memory.events", "oom_kill"); ok && killed > 0 && e.Over == "" {
		e.Over = "memory"
	}
	if raw, err := os.ReadFile(filepath.Join(g.dir, "io.stat")); err == nil {
		e.ReadBytes, e.WrittenBytes = diskBytes(raw)
	}
}

// number returns the number behind a key in a file of the group, or the file's only number
// for the key "".
func (g *group) number(file, key string) (n int64, ok bool) {
	raw, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0, false
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		name, value, found := strings.Cut(lines.Text(), " ")
		if key == "" {
			name, value, found = "", name, true
		}
		if found && name == key {
			n, err := strconv.ParseInt(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// diskBytes returns the sums of an io.stat: a line of each device with rbytes=N and wbytes=N.
func diskBytes(stat []byte) (read, written int64) {
	for _, field := range strings.Fields(string(stat)) {
		name, value, _ := strings.Cut(field, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch name {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written
}

// endGroup kills what is in a control group and removes it. What has not ended within half a
// second is removed by the next worker that starts.
func endGroup(dir string) {
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return
	}
	defer events.Close()
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		// What changes after it was read, such as to "populated 0", has poll return.
		_, _ = events.ReadAt(make([]byte, 100), 0)
		if os.Remove(dir) == nil {
			return
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}, int(time.Until(end).Milliseconds()))
	}
}
