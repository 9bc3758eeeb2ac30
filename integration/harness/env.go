package harness

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"nofx.dev/shared/servertest/child"
)

// passed are the variables of our own environment that the processes see,
// besides NOFX_*, OTEL_* and LC_*: a container has few, so ours have few.
var passed = []string{
	"PATH", "HOME", "USER", "TMPDIR", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"GOCOVERDIR", "GORACE", "GODEBUG", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK",
}

// told are variables of the environment file that are for people and tests, and
// no settings of a process.
var told = []string{
	"NOFX_URL", "NOFX_API_KEY", "NOFX_API_KEY_FILE", "NOFX_GATEWAY_PID", "NOFX_WORKER_PIDS",
	"NOFX_GATEWAY_METRICS_URL", "NOFX_WORKER_METRICS_URLS", "NOFX_ADMIN_DATABASE_URL", "NOFX_GATEWAY_DATABASE_URL", "NOFX_DATA_DIR",
}

// inherited returns what the processes get of an environment.
func inherited(environ []string) map[string]string {
	env := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		ours := strings.HasPrefix(name, "NOFX_") || strings.HasPrefix(name, "OTEL_") || strings.HasPrefix(name, "LC_")
		if (ours || slices.Contains(passed, name)) && !slices.Contains(told, name) {
			env[name] = value
		}
	}
	return env
}

// environ returns env as a process takes it.
func environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}

// freeAddresses returns two loopback addresses nobody listens on. They lie below the
// ports that the system gives to outgoing connections, so that a process that is
// restarted finds its own again.
func freeAddresses() (a, b string, err error) {
	var found []string
	for range 200 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000))))
		if err != nil {
			continue
		}
		defer l.Close()
		if found = append(found, l.Addr().String()); len(found) == 2 {
			return found[0], found[1], nil
		}
	}
	return "", "", fmt.Errorf("no free port between 20000 and 32000")
}

// output runs a program to its end and returns what it printed. What it wrote
// to its standard error is part of the error.
func output(ctx context.Context, env map[string]string, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	merged := inherited(os.Environ())
	for k, v := range env {
		merged[k] = v
	}
	cmd.Env = environ(merged)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := child.Run(ctx, cmd); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.TrimSpace(problem.String()))
	}
	return out.String(), nil
}

// runLogged returns output written to a log.
func runLogged(ctx context.Context, log string, env map[string]string, program string, args ...string) error {
	out, err := output(ctx, env, program, args...)
	if err != nil {
		out += err.Error() + "\n"
	}
	if e := os.WriteFile(log, []byte(out), 0o600); err == nil {
		err = e
	}
	return err
}
