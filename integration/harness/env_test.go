package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

func TestEnvFileIsReadByAShell(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "env")
	rapid.Check(t, func(rt *rapid.T) {
		want := rapid.StringMatching(`[ -~é€]{0,40}`).Draw(rt, "value")
		if err := writeEnvFile(path, []variable{{"A", want}, {"B", "x"}}); err != nil {
			rt.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", `set -a; . "$0"; exec sh -c 'printf %s "$A|$B"'`, path).CombinedOutput()
		if err != nil || string(out) != want+"|x" {
			rt.Fatalf("a shell reads %q, %v, want %q", out, err, want+"|x")
		}
	})
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file = %v, %v, want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("drafts are left: %q", left)
	}
	if err := writeEnvFile(path, []variable{{"A", "two\nlines"}}); err == nil {
		t.Error("writeEnvFile(two lines) = nil, want an error")
	}
}

func TestInherited(t *testing.T) {
	t.Parallel()
	got := inherited([]string{
		"PATH=/bin", "HOME=/h", "AWS_SECRET_ACCESS_KEY=s", "DATABASE_URL=admin", "PGPASSWORD=p",
		"NOFX_STEP_ENV=CI=1", "NOFX_API_KEY=k", "NOFX_WORKER_PIDS=1 2", "OTEL_EXPORTER_OTLP_ENDPOINT=http://x", "LC_ALL=C",
	})
	want := map[string]string{
		"PATH": "/bin", "HOME": "/h", "NOFX_STEP_ENV": "CI=1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "LC_ALL": "C",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inherited() (-want +got):\n%s", diff)
	}
}

func TestFreeAddresses(t *testing.T) {
	t.Parallel()
	a, b, err := freeAddresses()
	if err != nil || a == b {
		t.Fatalf("freeAddresses() = %s, %s, %v, want two", a, b, err)
	}
	for _, addr := range []string{a, b} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Errorf("Listen(%s) = %v, want it free", addr, err)
			continue
		}
		l.Close()
		if port := l.Addr().(*net.TCPAddr).Port; port < 20000 || port >= 32000 {
			t.Errorf("port = %d, want it below those of outgoing connections", port)
		}
	}
}

func TestAs(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{
		"postgres://admin:secret@127.0.0.1:5433/nofx?sslmode=disable",
		"host=127.0.0.1 port=5433 user=admin password=secret dbname=nofx sslmode=disable",
	} {
		cfg, err := pgx.ParseConfig(as(dsn, workerRole, "abc"))
		if err != nil {
			t.Fatal(err)
		}
		if cfg.User != workerRole || cfg.Password != "abc" || cfg.Database != "nofx" || cfg.Port != 5433 || cfg.TLSConfig != nil {
			t.Errorf("as(%s, nofx_worker) = %s", dsn, cfg.ConnString())
		}
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	password := func(dsn string) string {
		all, err := passwords(dsn)
		p := all[workerRole]
		if err != nil || len(p) != 64 || strings.Trim(p, "0123456789abcdef") != "" {
			t.Fatalf("passwords(%s) = %q, %v, want 64 hexadecimal digits", dsn, all, err)
		}
		if other := all[gatewayRole]; len(other) != 64 || other == p {
			t.Errorf("passwords(%s) of gateway and worker = %q, %q, want two", dsn, other, p)
		}
		return p
	}
	a, again, b := password("postgres://u:a@h/d"), password("postgres://u:a@h/e"), password("postgres://u:b@h/d")
	if a != again || a == b {
		t.Errorf("passwords: same administrator equal = %t, other equal = %t; want true, false", a == again, a == b)
	}
	if one, two := password("postgres://u@h/d"), password("postgres://u@h/d"); one == two {
		t.Error("passwords without a password = the same twice, want it random")
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	out, err := output(t.Context(), map[string]string{"A": "b"}, "/bin/sh", "-c", `echo "$A"; echo why >&2; exit 3`)
	if out != "b\n" || err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("output() = %q, %v, want b and an error that says why", out, err)
	}
	log := filepath.Join(t.TempDir(), "log")
	if err := runLogged(t.Context(), log, nil, "/bin/sh", "-c", "echo done"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(log); string(b) != "done\n" {
		t.Errorf("log = %q, want done", b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := output(ctx, nil, "sleep", "300"); err == nil {
		t.Error("output(cancelled) = nil, want an error")
	}
}

func TestCompileCounts(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", `printf 'go: downloading a v1\nexample.com/a\n# example.com/b\nb.go:1:2: undefined: x\n' >&2; exit 1`)
	err := compile(t.Context(), cmd, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "undefined: x") || strings.Contains(err.Error(), "downloading") {
		t.Errorf("compile() = %v, want what the compiler said and nothing else", err)
	}
}

// A stack keeps what the user set, unless it must choose that itself, which it says.
func TestEnvironmentOfAUser(t *testing.T) { // not parallel: it sets variables
	s := &Stack{Dir: t.TempDir(), WorkerDB: "postgres://own", S3: S3{Endpoint: "http://own"}}
	if got := s.workerEnvironment("worker-1", "127.0.0.1:1", nil)["NOFX_WORKSPACE_DIR"]; got != filepath.Join(s.Dir, "work", "worker-1") {
		t.Errorf("NOFX_WORKSPACE_DIR by default = %q, want one of the stack's folder", got)
	}
	set := map[string]string{
		"NOFX_WORKSPACE_DIR": "/mine", "NOFX_DRAIN_GRACE": "1m", "NOFX_STEP_ENV": "CI=true", "NOFX_ENV": "production",
		"NOFX_S3_ENDPOINT": "http://mine", "NOFX_METRICS_ADDR": ":1", "NOFX_S3_SECRET_KEY_FILE": "/secret", "DATABASE_URL": "postgres://server",
	}
	for name, value := range set {
		t.Setenv(name, value)
	}
	env := s.workerEnvironment("worker-1", "127.0.0.1:1", map[string]string{"NOFX_DRAIN_GRACE": "2s"})
	for name, want := range map[string]string{
		"NOFX_WORKSPACE_DIR": "/mine", "NOFX_DRAIN_GRACE": "2s", "NOFX_STEP_ENV": "CI=true", "NOFX_ENV": "production",
		"NOFX_S3_ENDPOINT": "http://own", "NOFX_METRICS_ADDR": "127.0.0.1:1", "NOFX_S3_SECRET_KEY_FILE": "", "DATABASE_URL": "postgres://own",
	} {
		if env[name] != want {
			t.Errorf("%s=%s of the user becomes %q, want %q", name, set[name], env[name], want)
		}
	}
	if got, want := fmt.Sprint(s.unheeded(os.Environ())), "[NOFX_METRICS_ADDR NOFX_S3_ENDPOINT NOFX_S3_SECRET_KEY_FILE]"; got != want {
		t.Errorf("unheeded() = %s, want %s", got, want)
	}
}
