package confine

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is the time between two looks at a command, and before the first one: most
// commands are quick, and each look reads /proc.
const lookEvery = 100 * time.Millisecond

// guard looks at the command now and then, records the memory that its processes have
// together, and reports a limit that is passed on t.over. It returns after that.
//
// Between two looks a command can take more than its limit: this bounds what it takes, not
// to the byte. A control group of the container bounds both.
func (t *tree) guard(s Spec) {
	disk := newDiskWatch(s)
	for range time.Tick(lookEvery) {
		pids := descendants(os.Getpid())
		var memory int64
		for _, pid := range pids {
			memory += memoryOf(pid)
		}
		if memory > t.peak.Load() {
			t.peak.Store(memory)
		}
		limit := ""
		switch {
		case s.Limits.Processes > 0 && len(pids) > s.Limits.Processes:
			limit = "processes"
		case s.Limits.Memory > 0 && memory > s.Limits.Memory:
			limit = "memory"
		default:
			limit = disk.passed()
		}
		if limit != "" {
			t.over <- limit
			return
		}
	}
}

// memoryOf returns the bytes of memory that a process holds beside files: what it has
// written, and memory shared without a file.
func memoryOf(pid int) (sum int64) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(status) {
		if bytes.HasPrefix(line, []byte("RssAnon:")) || bytes.HasPrefix(line, []byte("RssShmem:")) {
			if f := bytes.Fields(line); len(f) == 3 {
				kib, _ := strconv.ParseInt(string(f[1]), 10, 64)
				sum += kib << 10
			}
		}
	}
	return sum
}

// diskWatch knows what was free on the disks of the writable folders when the command
// started. It counts in the folders only when that has shrunk by a limit, as counting takes
// long.
type diskWatch struct {
	limits  Limits
	folders []string
	before  map[string]unix.Statfs_t
}

func newDiskWatch(s Spec) diskWatch {
	w := diskWatch{limits: s.Limits, before: map[string]unix.Statfs_t{}}
	for _, folder := range s.Writable {
		var stat unix.Statfs_t
		if info, err := os.Stat(folder); err == nil && info.IsDir() && unix.Statfs(folder, &stat) == nil {
			w.folders, w.before[folder] = append(w.folders, folder), stat
		}
	}
	return w
}

// passed returns the limit that the folders have passed, or "".
func (w diskWatch) passed() string {
	for _, folder := range w.folders {
		var now unix.Statfs_t
		before := w.before[folder]
		if unix.Statfs(folder, &now) != nil {
			continue
		}
		bytesGone := (int64(before.Bavail) - int64(now.Bavail)) * now.Bsize
		filesGone := int64(before.Ffree) - int64(now.Ffree)
		if w.limits.Disk > 0 && bytesGone > w.limits.Disk || w.limits.Files > 0 && filesGone > w.limits.Files {
			return w.count()
		}
	}
	return ""
}

// count returns the limit that the folders together have passed, or "".
func (w diskWatch) count() string {
	var size, files int64
	for _, folder := range w.folders {
		_ = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it went meanwhile, or is none of ours
			}
			files++
			if info, err := d.Info(); err == nil {
				if stat, ok := info.Sys().(*syscall.Stat_t); ok {
					size += stat.Blocks * 512
				}
			}
			return nil
		})
	}
	switch {
	case w.limits.Disk > 0 && size > w.limits.Disk:
		return "disk"
	case w.limits.Files > 0 && files > w.limits.Files:
		return "files"
	}
	return ""
}
