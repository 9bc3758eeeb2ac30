package harness

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"nofx.dev/shared/servertest/child"
)

// Binaries are the paths of the programs.
type Binaries struct {
	Gateway, Worker, Migrate, NOFX string // nofx-sandbox is beside the worker
}

// BuildConfig says where the programs go.
type BuildConfig struct {
	Dir string
	// Race has the race detector in them.
	Race bool
	// Progress is told now and then how far the build is; it may be nil.
	Progress func(string)
}

// Build compiles the programs of this workspace. It needs the go command, and a
// working directory inside the workspace.
func Build(ctx context.Context, cfg BuildConfig) (Binaries, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return Binaries{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Binaries{}, err
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	// -v names each package when it is compiled, which tells how far it is. No
	// stamp of the version control: it fails where git distrusts the folder.
	args := []string{"build", "-v", "-buildvcs=false", "-o", dir + string(filepath.Separator)}
	if cfg.Race {
		args = append(args, "-race")
	}
	args = append(args, "nofx.dev/gateway/cmd/gateway", "nofx.dev/gateway/cmd/nofx",
		"nofx.dev/worker/cmd/worker", "nofx.dev/migrations/cmd/migrate")
	cfg.Progress("building gateway, worker, migrate and nofx")
	if err := compile(ctx, exec.Command("go", args...), cfg.Progress); err != nil {
		return Binaries{}, fmt.Errorf("go build: %w", err)
	}
	// Without the race detector: it starts for each command of a step.
	helper := exec.Command("go", "build", "-v", "-buildvcs=false", "-o", dir+string(filepath.Separator), "nofx.dev/worker/cmd/nofx-sandbox")
	if err := compile(ctx, helper, cfg.Progress); err != nil {
		return Binaries{}, fmt.Errorf("go build: %w", err)
	}
	return Binaries{
		Gateway: filepath.Join(dir, "gateway"), Worker: filepath.Join(dir, "worker"),
		Migrate: filepath.Join(dir, "migrate"), NOFX: filepath.Join(dir, "nofx"),
	}, nil
}

// compile runs the go command and counts what it says it did. Anything else it
// says is part of the error.
func compile(ctx context.Context, cmd *exec.Cmd, progress func(string)) error {
	r, w := io.Pipe()
	cmd.Stderr = w
	var mu sync.Mutex
	var compiled, downloaded int
	var problems []string
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			line := lines.Text()
			mu.Lock()
			switch {
			case strings.HasPrefix(line, "go: downloading "):
				downloaded++
			case !strings.ContainsAny(line, " :#"): // a package's path alone
				compiled++
			default:
				problems = append(problems, line)
			}
			mu.Unlock()
		}
		io.Copy(io.Discard, r) //nolint:errcheck // after a line too long to scan, so that the writer can go on
	})
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				mu.Lock()
				progress(fmt.Sprintf("building: %d modules downloaded, %d packages compiled", downloaded, compiled))
				mu.Unlock()
			}
		}
	})
	err := child.Run(ctx, cmd)
	w.Close()
	close(ended)
	wg.Wait()
	if err != nil && len(problems) > 0 {
		err = fmt.Errorf("%w\n%s", err, strings.Join(problems[:min(len(problems), 40)], "\n"))
	}
	return err
}
