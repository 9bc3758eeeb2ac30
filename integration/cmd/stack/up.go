package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"nofx.dev/integration/harness"
	"nofx.dev/shared/servertest/filelock"
)

// up runs a stack until ctx ends or a server dies.
func up(ctx context.Context, o options, t *terminal) error {
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return err
	}
	lock, err := filelock.Try(filepath.Join(o.data, "lock"))
	if errors.Is(err, filelock.ErrHeld) {
		return fmt.Errorf("a stack runs on %s already: stop it, or give --data another folder", o.data)
	}
	if err != nil {
		return err
	}
	defer lock.Close()

	began := time.Now()
	servers, stack, err := start(ctx, o, t)
	if servers != nil {
		defer func() {
			servers.Stop()
			t.progress("stopped")
		}()
	}
	if err != nil {
		if ctx.Err() != nil { // interrupted, and all is stopped: as asked
			return nil
		}
		return err
	}
	defer func() {
		t.progress("stopping")
		stack.Stop()
	}()
	login := ""
	if o.login {
		if login, err = keepLogin(stack.URL, stack.APIKey); err != nil {
			return err
		}
	}
	sandbox, err := stack.Sandbox(ctx)
	if ctx.Err() != nil { // interrupted, as asked
		return nil
	}
	if err != nil {
		return err
	}
	t.summary(stack, o, login, sandbox, time.Since(began))
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.demo {
		wg.Go(func() {
			if err := demo(ctx, stack, o, login != "", t); err != nil && ctx.Err() == nil {
				t.warn("demo", err.Error())
			}
		})
	}
	return servers.Wait(ctx)
}

// start brings everything up. Servers that it returns beside an error are
// started and to be stopped.
func start(ctx context.Context, o options, t *terminal) (*harness.Servers, *harness.Stack, error) {
	binaries, err := harness.Build(ctx, harness.BuildConfig{Dir: filepath.Join(o.data, "bin"), Progress: t.progress})
	if err != nil {
		return nil, nil, err
	}
	servers, err := harness.StartServers(ctx, harness.ServersConfig{Dir: o.data, Progress: t.progress})
	if err != nil {
		return nil, nil, err
	}
	env := map[string]string{"NOFX_SANDBOX_READONLY": readable(ctx)}
	if root, err := repository(ctx); err == nil {
		env["NOFX_GIT_ALLOW"] = allow(root)
	}
	stack, err := harness.Up(ctx, harness.Config{
		Servers: servers, Binaries: binaries, Dir: o.data, Keep: true, Workers: o.workers,
		WorkerEnv: env, EnvFile: o.envFile, Progress: t.progress, Warn: t.warn,
	})
	return servers, stack, err
}

// allow returns NOFX_GIT_ALLOW for the workers: what the user set, and the folder root.
func allow(root string) string {
	return strings.TrimPrefix(os.Getenv("NOFX_GIT_ALLOW")+",file:"+root, ",")
}

// readable returns NOFX_SANDBOX_READONLY for the workers: what the user set, and this user's
// caches of the go command, with which it builds without a network.
func readable(ctx context.Context) string {
	paths := []string{}
	if set := os.Getenv("NOFX_SANDBOX_READONLY"); set != "" {
		paths = append(paths, set)
	}
	if env, err := goEnvironment(ctx); err == nil {
		paths = append(paths, env["GOMODCACHE"], env["GOCACHE"])
	}
	return strings.Join(paths, ",")
}

// repository returns the root of the checkout we were started in.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", errors.New("this is no checkout of a git repository, or git is missing")
	}
	return strings.TrimSpace(string(out)), nil
}
