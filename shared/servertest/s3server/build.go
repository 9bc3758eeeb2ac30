package s3server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"nofx.dev/shared/servertest/child"
	"nofx.dev/shared/servertest/filelock"
)

// build returns the path of the server's program, built the first time. Packages
// are tested in parallel, so the first one builds and the others wait for it.
func build(ctx context.Context, progress func(string)) (string, error) {
	module, err := moduleDir(ctx)
	if err != nil {
		return "", err
	}
	key, err := buildKey(ctx, module)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "nofx", "versitygw")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(cache, key)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	progress("building the S3 server, a minute (once)")
	lock, err := filelock.Wait(ctx, path+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fresh := path + ".new"
	// Built as all other programs are, so that it shares the standard library with them.
	if _, err := goTool(ctx, outside(), "-C", module, "build", "-buildvcs=false", "-ldflags=-s -w", "-o", fresh, "."); err != nil {
		return "", fmt.Errorf("build the S3 server: %w", err)
	}
	return path, os.Rename(fresh, path)
}

// moduleDir returns the folder versitygw beside this file. The compiler noted where
// that is, unless it was told to trim paths: then the go command knows.
func moduleDir(ctx context.Context) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	if dir := filepath.Join(filepath.Dir(file), "versitygw"); filepath.IsAbs(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	out, err := goTool(ctx, os.Environ(), "list", "-f", "{{.Dir}}", "nofx.dev/shared/servertest/s3server")
	if err != nil {
		return "", fmt.Errorf("find the sources of the S3 server: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "versitygw"), nil
}

// buildKey names a build: another version of the server, of one of its modules
// or of Go has another name.
func buildKey(ctx context.Context, module string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		b, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
	}
	version, err := goTool(ctx, outside(), "-C", module, "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return "", err
	}
	h.Write(version)
	return fmt.Sprintf("%x", h.Sum(nil)[:12]), nil
}

// outside returns the environment of the go command for a module that is in no
// workspace.
func outside() []string { return append(os.Environ(), "GOWORK=off") }

func goTool(ctx context.Context, env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = env
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := child.Run(ctx, cmd); err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(problem.Bytes()))
	}
	return out.Bytes(), nil
}
