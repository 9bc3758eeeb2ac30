package sandbox

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What the kernel has counted in a control group stands for what the helper saw, file by
// file: a controller that is not there leaves the helper's figure. The texts are those of the
// kernel's documentation (admin-guide/cgroup-v2).
func TestGroupCounts(t *testing.T) {
	t.Parallel()
	seen := Exit{Code: 1, CPU: time.Second, MaxRSS: 1, ReadBytes: 2, WrittenBytes: 3}
	for name, tc := range map[string]struct {
		files map[string]string
		exit  Exit
		want  Exit
	}{
		"no controllers": {nil, seen, seen},
		"cpu": {map[string]string{"cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"}, seen,
			Exit{Code: 1, CPU: 1500 * time.Microsecond, MaxRSS: 1, ReadBytes: 2, WrittenBytes: 3}},
		"memory": {map[string]string{"memory.peak": "67108864\n", "memory.events": "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n"}, seen,
			Exit{Code: 1, CPU: time.Second, MaxRSS: 64 << 20, ReadBytes: 2, WrittenBytes: 3}},
		"out of memory": {map[string]string{"memory.peak": "67108864\n", "memory.events": "max 12\noom 1\noom_kill 2\n"}, seen,
			Exit{Code: 1, Over: "memory", CPU: time.Second, MaxRSS: 64 << 20, ReadBytes: 2, WrittenBytes: 3}},
		"out of memory after another limit": {map[string]string{"memory.events": "oom_kill 1\n"}, Exit{Over: "disk"}, Exit{Over: "disk"}},
		"io": {map[string]string{"io.stat": "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252\n"}, seen,
			Exit{Code: 1, CPU: time.Second, MaxRSS: 1, ReadBytes: 91889664, WrittenBytes: 613781504}},
		"io without a disk": {map[string]string{"io.stat": ""}, seen, Exit{Code: 1, CPU: time.Second, MaxRSS: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for file, text := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			at, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			got := tc.exit
			(&group{dir, at}).close(&got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("close (-want +got):\n%s", diff)
			}
		})
	}
}
