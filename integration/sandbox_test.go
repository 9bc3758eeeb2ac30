package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestSandbox runs a plan that checks out, builds on what it finds, and is gated, in tier 1 and
// in tier 2 as a worker in production does, and looks at what the steps saw.
func TestSandbox(t *testing.T) {
	t.Parallel()
	for tier := 1; tier <= 2; tier++ {
		t.Run(fmt.Sprintf("tier %d", tier), func(t *testing.T) {
			t.Parallel()
			source := repository(t)
			outside := filepath.Join(t.TempDir(), "outside")
			if err := os.WriteFile(outside, []byte("of the machine"), 0o644); err != nil {
				t.Fatal(err)
			}
			s := up(t, harness.Config{Workers: 1, WorkerEnv: map[string]string{
				"NOFX_TEST": "", "NOFX_ENV": "production", "NOFX_WORKER_QUEUES": "step",
				"NOFX_SANDBOX_MIN_TIER": fmt.Sprint(tier), "NOFX_SANDBOX_MAX_TIER": fmt.Sprint(tier),
				"NOFX_GIT_ALLOW": "file:" + source.dir,
			}})
			port := s.URL[strings.LastIndex(s.URL, ":")+1:]
			r := s.create(t,
				step{Name: "checkout", Tool: "git:checkout", Inputs: map[string]any{"url": "file://" + source.dir}},
				bash("look", strings.Join([]string{
					"ls -la", "touch made", "mktemp", "(: > /dev/tcp/127.0.0.1/" + port + ") 2>/dev/null && exit 3",
					"cat " + outside + " && exit 4", "cat /proc/$PPID/environ && exit 5", "cat /etc/shadow && exit 6",
					"echo held=all >> $NOFX_OUTPUT",
				}, "\n")),
				step{Name: "check", Tool: "gate:unit", Inputs: map[string]any{"command": "test -e made && test -e .git/HEAD"}},
			)
			d := s.await(t, r.Run.ID, api.RunStatusSucceeded)
			if got := string(named(t, d, "look").Outputs); !strings.Contains(got, `{"held":"all"}`) {
				t.Errorf("outputs of look = %s, want all held; its log:\n%s", got, s.log(t, named(t, d, "look").ID))
			}
			workers := get[api.WorkerPage](t, s.client, "/api/workers").Items
			if len(workers) != 1 || workers[0].SandboxTier != tier {
				t.Errorf("workers = %+v, want one of tier %d", workers, tier)
			}
		})
	}
}
