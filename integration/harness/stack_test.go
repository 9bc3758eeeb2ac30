package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The stand-ins of this test know of the real programs what the harness knows:
// their arguments, their environment and what they answer.

// migrateStandIn makes the roles that gateway and worker log in as.
func migrateStandIn(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `DO $$ BEGIN CREATE ROLE nofx_gateway LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		DO $$ BEGIN CREATE ROLE nofx_worker LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
		CREATE TABLE IF NOT EXISTS api_key (key text); GRANT SELECT ON api_key TO nofx_gateway, nofx_worker`)
	return err
}

// gatewayStandIn makes keys and tenants, or says who knows a key.
func gatewayStandIn(ctx context.Context, args []string) error {
	if len(args) == 3 && args[0] == "kek" && args[1] == "create" {
		return os.WriteFile(args[2], []byte("a key\n"), 0o600)
	}
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if len(args) >= 3 && args[0] == "tenant" && args[1] == "create" {
		key := "nofx_dev_" + args[2] + "_" + strconv.Itoa(os.Getpid())
		fmt.Println("tenant " + args[2])
		fmt.Println(key)
		_, err := conn.Exec(ctx, `INSERT INTO api_key VALUES ($1)`, key)
		return err
	}
	return http.ListenAndServe(os.Getenv("NOFX_HTTP_ADDR"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		var known bool
		if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM api_key WHERE key = $1)`, key).Scan(&known); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		} else if r.URL.Path == "/api/whoami" && !known {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
}

// standIns returns programs that start this test binary in a role.
func standIns(t *testing.T) Binaries {
	t.Helper()
	dir := t.TempDir()
	program := func(role string) string {
		path := filepath.Join(dir, role)
		script := "#!/bin/sh\nHARNESS_TEST_ROLE=" + role + " HARNESS_TEST_LOCK=" + dir + "/lock-$$ exec '" + os.Args[0] + "' \"$@\"\n"
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return Binaries{Gateway: program("gateway"), Worker: program("server"), Migrate: program("migrate")}
}

// sourced returns what a shell knows after it has read an environment file.
func sourced(t *testing.T, path string) map[string]string {
	t.Helper()
	out, err := exec.Command("env", "-i", "PATH="+os.Getenv("PATH"), "sh", "-c", `set -a; . "$0"; env`, path).Output()
	if err != nil {
		t.Fatalf("source %s: %v", path, err)
	}
	vars := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[name] = value
	}
	return vars
}

func TestStack(t *testing.T) {
	t.Parallel()
	servers, err := StartServers(t.Context(), ServersConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(servers.Stop)
	binaries := standIns(t)
	dir := t.TempDir()
	cfg := Config{Servers: servers, Binaries: binaries, Dir: dir, Keep: true, Workers: 2, EnvFile: filepath.Join(dir, "env")}
	up := func(cfg Config) *Stack {
		t.Helper()
		s, err := Up(t.Context(), cfg)
		if err != nil {
			t.Fatalf("Up() = %v, want nil", err)
		}
		t.Cleanup(s.Stop)
		return s
	}
	s := up(cfg)
	vars := sourced(t, cfg.EnvFile)
	pids := fmt.Sprintf("%d %d", s.Workers()[0].PID(), s.Workers()[1].PID())
	for name, want := range map[string]string{
		"NOFX_URL": s.URL, "NOFX_API_KEY": s.APIKey, "DATABASE_URL": s.WorkerDB, "NOFX_GATEWAY_DATABASE_URL": s.GatewayDB, "NOFX_ADMIN_DATABASE_URL": s.AdminURL,
		"NOFX_WORKER_PIDS": pids, "NOFX_GATEWAY_PID": strconv.Itoa(s.Gateway.PID()), "NOFX_DATA_DIR": dir,
		"NOFX_S3_ENDPOINT": s.S3.Endpoint, "NOFX_S3_BUCKET": "nofx", "NOFX_ENV": "development",
	} {
		if vars[name] != want {
			t.Errorf("%s in the environment file = %q, want %q", name, vars[name], want)
		}
	}
	if !strings.HasPrefix(s.APIKey, "nofx_dev_dev_") {
		t.Errorf("APIKey = %q, want that of tenant dev", s.APIKey)
	}

	// A process that dies comes back, and the file knows.
	if err := s.Gateway.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := s.Gateway.Ended(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Gateway.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.renewEnvFile(); err != nil { // the file is renewed beside the start: be after it
		t.Fatal(err)
	}
	if got, want := sourced(t, cfg.EnvFile)["NOFX_GATEWAY_PID"], strconv.Itoa(s.Gateway.PID()); got != want || got == vars["NOFX_GATEWAY_PID"] {
		t.Errorf("NOFX_GATEWAY_PID = %s after a restart, want %s", got, want)
	}
	w, err := s.AddWorker(t.Context(), map[string]string{"NOFX_WORKER_QUEUES": "review"})
	if err != nil || w.Name() != "worker-3" {
		t.Fatalf("AddWorker() = %v, %v, want worker-3", w, err)
	}

	// Another stack on the same servers has its own of everything.
	other := up(Config{Servers: servers, Binaries: binaries})
	if other.AdminURL == s.AdminURL || other.S3.Bucket == s.S3.Bucket || other.URL == s.URL {
		t.Errorf("a second stack has database %s, bucket %s, URL %s: want its own", other.AdminURL, other.S3.Bucket, other.URL)
	}
	if ok, err := other.accepts(t.Context(), s.APIKey); ok || err != nil {
		t.Errorf("a second stack knows the key of the first: %t, %v", ok, err)
	}
	key, err := other.NewTenant(t.Context(), "guests")
	if err != nil || !strings.HasPrefix(key, "nofx_dev_guests_") {
		t.Errorf("NewTenant(guests) = %q, %v", key, err)
	}
	other.Stop()
	if _, err := pgx.Connect(t.Context(), other.AdminURL); err == nil {
		t.Error("the database of a stack that was not to be kept is there after Stop")
	}
	if _, err := os.Stat(other.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat(directory of that stack) = %v, want not exist", err)
	}

	// Stopped and started again, the key is the same.
	s.Stop()
	if _, err := os.Stat(cfg.EnvFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat(environment file after Stop) = %v, want not exist", err)
	}
	again := up(cfg)
	if again.APIKey != s.APIKey {
		t.Errorf("APIKey = %q on kept data, want %q", again.APIKey, s.APIKey)
	}
	again.Stop()
	if err := os.WriteFile(filepath.Join(dir, "api-key"), []byte("nofx_dev_revoked\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if last := up(cfg); last.APIKey == "nofx_dev_revoked" || last.APIKey == "" {
		t.Errorf("APIKey = %q where the stored one is not known, want a new one", last.APIKey)
	}
}

func TestStackSaysWhyItCannotStart(t *testing.T) {
	t.Parallel()
	servers, err := StartServers(t.Context(), ServersConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(servers.Stop)
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho this is why >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, breakIt := range map[string]func(*Binaries){
		"migrate": func(b *Binaries) { b.Migrate = broken },
		"gateway": func(b *Binaries) { b.Gateway = broken },
		"worker":  func(b *Binaries) { b.Worker = broken },
	} {
		b := standIns(t)
		breakIt(&b)
		_, err := Up(t.Context(), Config{Servers: servers, Binaries: b, Workers: 1})
		if err == nil || !strings.Contains(err.Error(), "this is why") {
			t.Errorf("Up(broken %s) = %v, want what it said", name, err)
		}
	}
}

// A server that ends says where its log is: that is all that is left of it.
func TestServerThatEndsNamesItsLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	servers, err := StartServers(t.Context(), ServersConfig{Dir: dir})
	if err != nil {
		t.Fatalf("StartServers() = %v", err)
	}
	defer servers.Stop()
	servers.s3.Stop()
	log := filepath.Join(dir, "logs", "s3.log")
	if err := servers.Wait(t.Context()); err == nil || !strings.HasSuffix(err.Error(), log) {
		t.Errorf("Wait() after the S3 server ended = %v, want %s at its end", err, log)
	}
	if _, err := os.Stat(log); err != nil {
		t.Errorf("Stat(the log) = %v, want it there", err)
	}
}
