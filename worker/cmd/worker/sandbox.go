package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sandbox"
)

// sandboxSettings say how code of plans is isolated.
type sandboxSettings struct {
	MinTier   int      `env:"NOFX_SANDBOX_MIN_TIER" envDefault:"2" want:"0|1|2" doc:"the least tier of sandbox that code of plans is run in, 1 or 2; a worker that finds its own below it does not serve the queue step"`
	MaxTier   int      `env:"NOFX_SANDBOX_MAX_TIER" envDefault:"2" want:"0|1|2" doc:"the highest tier that is tried; 1 saves the 20 ms that namespaces take for each command"`
	Readable  []string `env:"NOFX_SANDBOX_READONLY" doc:"absolute paths that steps may read beside the toolchain, such as a cache of modules, separated by commas"`
	Memory    int64    `env:"NOFX_SANDBOX_MEMORY_MIB" envDefault:"4096" want:">=0" doc:"MiB of memory that the processes of a step may have together; 0: no limit"`
	Processes int      `env:"NOFX_SANDBOX_PROCESSES" envDefault:"1024" want:">=0" doc:"processes that a step may have; 0: no limit"`
	Disk      int64    `env:"NOFX_SANDBOX_DISK_MIB" envDefault:"10240" want:">=0" doc:"MiB that a step may add to its workspace and temporary files; 0: no limit"`
	Files     int64    `env:"NOFX_SANDBOX_FILES" envDefault:"500000" want:">=0" doc:"files that a step may add to them; 0: no limit"`
	Groups    string   `env:"NOFX_SANDBOX_CGROUP" doc:"absolute path of a folder of cgroup v2, without processes, that the worker may change: each command of a step gets a control group there, by which the kernel limits memory and processes and counts CPU, memory and disk; without it the worker looks at /proc"`
	Egress    int64    `env:"NOFX_SANDBOX_EGRESS_MIB" envDefault:"4096" want:">=0" doc:"MiB that a step whose plan has a network may send and receive together; 0: no limit"`
}

// check returns what is wrong with the settings together. Tier 0, in which code of plans runs
// as the worker's user, is for tests alone.
func (s sandboxSettings) check(getenv func(string) string) error {
	if s.MinTier == 0 && getenv("NOFX_TEST") != "1" {
		return errors.New("NOFX_SANDBOX_MIN_TIER: 0 is for tests, with NOFX_TEST=1; give 1 or 2")
	}
	if s.MinTier > s.MaxTier {
		return fmt.Errorf("NOFX_SANDBOX_MAX_TIER: %d is below NOFX_SANDBOX_MIN_TIER, which is %d", s.MaxTier, s.MinTier)
	}
	for _, path := range s.Readable {
		if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
			return fmt.Errorf("NOFX_SANDBOX_READONLY: %q is no absolute path below /", path)
		}
	}
	if s.Groups != "" && !filepath.IsAbs(s.Groups) {
		return fmt.Errorf("NOFX_SANDBOX_CGROUP: %q is no absolute path", s.Groups)
	}
	return nil
}

// open returns the sandbox of a worker, or nil when it runs no code of plans.
func (s sandboxSettings) open(ctx context.Context, queues []string) (*sandbox.Sandbox, error) {
	if !slices.Contains(queues, run.StepQueue) && !slices.Contains(queues, run.MaintenanceQueue) {
		return nil, nil
	}
	return sandbox.Open(ctx, sandbox.Config{
		MaxTier: s.MaxTier, Readable: s.Readable, Groups: s.Groups,
		Limits: sandbox.Limits{Memory: s.Memory << 20, Processes: s.Processes, Disk: s.Disk << 20, Files: s.Files},
	})
}

// tellSandbox writes the highest tier of sandbox that holds on this machine, and what each
// higher one lacks.
func tellSandbox(w io.Writer) error {
	if err := sandbox.Harden(); err != nil {
		return err
	}
	box, err := sandbox.Open(context.Background(), sandbox.Config{MaxTier: 2})
	if err != nil {
		return err
	}
	defer box.Close()
	fmt.Fprintf(w, "tier %d\n", box.Tier())
	for _, lack := range box.Higher() {
		fmt.Fprintln(w, "not", lack)
	}
	return nil
}
