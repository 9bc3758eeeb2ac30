package sandbox_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
)

// The thread that gives up its rights is not the helper's first one, of which /proc and signals
// to the process tell.
func TestHelperLeaderKeepsItsRights(t *testing.T) {
	t.Parallel()
	s := sandboxtest.Open(t, sandbox.Config{MaxTier: 1})
	for range 5 {
		r, w := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		c, _ := bash(`echo $PPID; read -r _ < <(sleep 1000)`)
		c.Stdout = w
		done := make(chan error, 1)
		go func() {
			_, err := s.Exec(ctx, c)
			_ = w.Close()
			done <- err
		}()
		var helper int
		if _, err := fmt.Fscan(r, &helper); err != nil {
			t.Fatalf("the helper's pid: %v", err)
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		restricted := 0
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", helper))
		for _, task := range tasks {
			status, err := os.ReadFile(task)
			if err != nil || !strings.Contains(string(status), "\nSeccomp:\t2\n") {
				continue
			}
			restricted++
			if strings.Contains(task, fmt.Sprintf("/task/%d/", helper)) {
				t.Errorf("the first thread of helper %d is restricted", helper)
			}
		}
		if restricted != 1 {
			t.Errorf("%d of %d threads of the helper are restricted, want 1", restricted, len(tasks))
		}
		cancel()
		<-done
	}
}
