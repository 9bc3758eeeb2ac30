// Package harness runs the whole system as processes: Postgres and S3, one
// gateway and some workers. The black-box tests and `stack up` both stand on it,
// so what the tests kill and restart is what a user starts.
//
// [StartServers] starts what holds data, [Build] makes the binaries, and [Up]
// makes a [Stack] of both: a database and a bucket of its own, migrated, with a
// tenant and its key. Several stacks may share servers and binaries. Everything
// listens on loopback, on free ports.
//
// The harness knows the processes as an operator does: by their environment,
// their ports and their logs.
package harness

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config says what a stack is made of. Servers and Binaries are required.
type Config struct {
	Servers  *Servers
	Binaries Binaries
	// Dir holds logs and workspaces. When it is empty a temporary directory is
	// used, and removed by Stop.
	Dir string
	// Keep makes the database, the bucket and the key those of the last stack on
	// Dir and Servers. Else they are new, and Stop drops the database.
	Keep bool
	// Workers is how many there are at first; see also [Stack.AddWorker].
	Workers int
	// Env goes to every process, GatewayEnv and WorkerEnv to those; they win
	// over what the harness sets and over our own environment.
	Env, GatewayEnv, WorkerEnv map[string]string
	// EnvFile is written when all is ready and again when a process has another
	// pid, if it is not empty. See [writeEnvFile].
	EnvFile string
	// Progress is told what takes long, Warn each warning of a process: its
	// name and the log line, from several goroutines. Both may be nil.
	Progress func(string)
	Warn     func(process, line string)
}

// S3 is object storage as the processes are told of it.
type S3 struct {
	Endpoint, Region, AccessKey, SecretKey, Bucket string
}

// Stack is a gateway and its workers, ready to serve. Gateway and workers are
// started again when they die, unless a test says otherwise.
type Stack struct {
	URL       string // of the gateway
	APIKey    string // an administrator of tenant dev
	AdminURL  string // the database, as an administrator
	GatewayDB string // the database, as the gateway uses it
	WorkerDB  string // the database, as workers use it
	S3        S3
	Gateway   *Process
	Dir       string

	cfg      Config
	database string // to drop on Stop, if not empty
	once     sync.Once

	mu      sync.Mutex
	workers []*Process
	ready   bool // all is up, so the environment file is kept current

	envFile sync.Mutex // one writer at a time, so that the last one knows best
}

// Up starts a stack and returns when all its processes are ready.
func Up(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	s := &Stack{cfg: cfg, Dir: cfg.Dir}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if s.Dir == "" {
		if s.Dir, err = os.MkdirTemp("", "nofx-stack-*"); err != nil {
			return nil, err
		}
	}
	if s.Dir, err = filepath.Abs(s.Dir); err != nil {
		return nil, err
	}
	for _, sub := range []string{"logs", "work"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if cfg.EnvFile != "" { // one of an earlier stack would tell of dead processes
		if err := os.Remove(cfg.EnvFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	if err := s.store(ctx); err != nil {
		return nil, err
	}
	if names := s.unheeded(os.Environ()); len(names) > 0 && cfg.Warn != nil {
		cfg.Warn("stack", "not used, since a stack chooses these itself: "+strings.Join(names, ", "))
	}
	if err := s.kek(ctx); err != nil {
		return nil, err
	}
	if err := s.startGateway(ctx); err != nil {
		return nil, err
	}
	if err := s.key(ctx); err != nil {
		return nil, err
	}
	cfg.Progress("starting the workers")
	for range cfg.Workers {
		if _, err := s.startWorker(nil); err != nil {
			return nil, err
		}
	}
	for _, w := range s.Workers() {
		if err := w.Ready(ctx); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	return s, s.renewEnvFile()
}

// store makes the database and the bucket, and brings the database up to date.
func (s *Stack) store(ctx context.Context) error {
	s.cfg.Progress("migrating the database")
	name := "nofx"
	if !s.cfg.Keep {
		name += "_" + strings.ToLower(rand.Text()[:12])
		s.database = name
	}
	db, err := s.cfg.Servers.database(ctx, name, s.cfg.Keep, func(admin string) error {
		return runLogged(ctx, s.Log("migrate"), map[string]string{"DATABASE_URL": admin}, s.cfg.Binaries.Migrate)
	})
	if err != nil {
		return err
	}
	s.AdminURL, s.GatewayDB, s.WorkerDB = db.admin, db.gateway, db.worker
	s3 := s.cfg.Servers.s3
	s.S3 = S3{
		Endpoint: s3.Endpoint, Region: s3.Region, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey,
		Bucket: strings.ReplaceAll(name, "_", "-"),
	}
	return s3.MakeBucket(ctx, s.S3.Bucket)
}

// environment returns the environment of a process, the later maps winning: defaults, which our
// own environment may change, where data is, and what this process is told.
// Of that our own environment changes nothing: see [Stack.unheeded].
func (s *Stack) environment(defaults map[string]string, told ...map[string]string) map[string]string {
	env := map[string]string{"NOFX_ENV": "development", "NOFX_KEK": (&url.URL{Scheme: "file", Path: s.kekFile()}).String()}
	maps.Copy(env, defaults)
	maps.Copy(env, inherited(os.Environ()))
	for _, m := range append([]map[string]string{s.stores()}, told...) {
		for name, value := range m {
			delete(env, name+"_FILE") // else there would be two
			env[name] = value
		}
	}
	return env
}

// unheeded returns the variables of an environment that say what a stack chooses itself:
// where its processes listen and where their data is. DATABASE_URL is the server's.
func (s *Stack) unheeded(environ []string) (names []string) {
	chosen := s.stores()
	for _, name := range []string{"NOFX_HTTP_ADDR", "NOFX_METRICS_ADDR", "NOFX_PUBLIC_URL"} {
		chosen[name] = ""
	}
	delete(chosen, "DATABASE_URL")
	for name, value := range inherited(environ) {
		if _, ok := chosen[strings.TrimSuffix(name, "_FILE")]; ok && value != chosen[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

var (
	// No load balancer has to notice that the gateway ends.
	gatewayDefaults = map[string]string{"NOFX_DRAIN_DELAY": "0s"}
	// A person waits for the end, and steps find the tools of this machine.
	workerDefaults = map[string]string{
		"NOFX_DRAIN_GRACE": "5s", "NOFX_STEP_ENV": "PATH=" + os.Getenv("PATH"), "NOFX_SANDBOX_MIN_TIER": "1",
	}
)

// stores returns where data is, as a worker is told. A gateway has another login.
func (s *Stack) stores() map[string]string {
	return map[string]string{
		"DATABASE_URL":             s.WorkerDB,
		"NOFX_DATABASE_LISTEN_URL": s.WorkerDB,
		"NOFX_S3_ENDPOINT":         s.S3.Endpoint,
		"NOFX_S3_REGION":           s.S3.Region,
		"NOFX_S3_ACCESS_KEY":       s.S3.AccessKey,
		"NOFX_S3_SECRET_KEY":       s.S3.SecretKey,
		"NOFX_S3_BUCKET":           s.S3.Bucket,
	}
}

func (s *Stack) startGateway(ctx context.Context) error {
	s.cfg.Progress("starting the gateway")
	api, metrics, err := freeAddresses()
	if err != nil {
		return err
	}
	s.URL = "http://" + api
	env := s.environment(gatewayDefaults, map[string]string{"DATABASE_URL": s.GatewayDB, "NOFX_DATABASE_LISTEN_URL": s.GatewayDB}, s.cfg.Env, map[string]string{
		"NOFX_HTTP_ADDR": api, "NOFX_METRICS_ADDR": metrics, "NOFX_PUBLIC_URL": s.URL,
	}, s.cfg.GatewayEnv)
	s.Gateway = s.start("gateway", s.cfg.Binaries.Gateway, env, metrics, s.URL+"/readyz")
	return s.Gateway.Ready(ctx)
}

// startWorker starts the next worker and does not wait until it is ready.
func (s *Stack) startWorker(extra map[string]string) (*Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "worker-" + strconv.Itoa(len(s.workers)+1)
	_, metrics, err := freeAddresses()
	if err != nil {
		return nil, err
	}
	env := s.workerEnvironment(name, metrics, extra)
	w := s.start(name, s.cfg.Binaries.Worker, env, metrics, "http://"+metrics+"/readyz")
	s.workers = append(s.workers, w)
	return w, nil
}

func (s *Stack) workerEnvironment(name, metrics string, extra map[string]string) map[string]string {
	defaults := map[string]string{"NOFX_WORKSPACE_DIR": filepath.Join(s.Dir, "work", name)}
	maps.Copy(defaults, workerDefaults)
	return s.environment(defaults, s.cfg.Env, map[string]string{"NOFX_METRICS_ADDR": metrics, "NOFX_PUBLIC_URL": s.URL}, s.cfg.WorkerEnv, extra)
}

func (s *Stack) start(name, program string, env map[string]string, metrics, ready string) *Process {
	return startProcess(process{
		name: name, program: program, env: env, ready: ready,
		metrics: "http://" + metrics + "/metrics", log: s.Log(name),
		warn: s.cfg.Warn, changed: s.changed,
	})
}

// Sandbox returns the tier of sandbox that workers find on this machine, and what each
// higher one lacks, a line each.
func (s *Stack) Sandbox(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, s.cfg.Binaries.Worker, "sandbox")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("worker sandbox: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// AddWorker starts one more worker, with extra in its environment, and returns
// when it is ready.
func (s *Stack) AddWorker(ctx context.Context, extra map[string]string) (*Process, error) {
	w, err := s.startWorker(extra)
	if err != nil {
		return nil, err
	}
	if err := w.Ready(ctx); err != nil {
		return nil, err
	}
	return w, s.renewEnvFile()
}

// Workers returns the workers started so far, in that order.
func (s *Stack) Workers() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Process(nil), s.workers...)
}

// Log returns the path of a process's log: "gateway", "worker-1", "migrate".
func (s *Stack) Log(process string) string { return filepath.Join(s.Dir, "logs", process+".log") }

// Stop ends gateway and workers together and waits for them, then drops what
// was made for this stack alone. Servers go on.
func (s *Stack) Stop() {
	s.once.Do(func() {
		processes := s.Workers()
		if s.Gateway != nil {
			processes = append(processes, s.Gateway)
		}
		var wg sync.WaitGroup
		for _, p := range processes {
			wg.Go(p.Stop)
		}
		wg.Wait()
		if s.database != "" {
			// Also when the caller's context has ended: that is when one stops.
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			s.cfg.Servers.drop(ctx, s.database)
		}
		if s.cfg.EnvFile != "" {
			os.Remove(s.cfg.EnvFile)
		}
		if s.cfg.Dir == "" && s.Dir != "" {
			os.RemoveAll(s.Dir)
		}
	})
}

// changed renews the environment file when a process has another pid.
func (s *Stack) changed() {
	s.mu.Lock()
	ready := s.ready
	s.mu.Unlock()
	if !ready {
		return
	}
	if err := s.renewEnvFile(); err != nil && s.cfg.Warn != nil {
		s.cfg.Warn("stack", err.Error())
	}
}

// NewTenant makes a tenant and returns the key of its first administrator.
func (s *Stack) NewTenant(ctx context.Context, slug string) (key string, err error) {
	return s.newKey(ctx, slug)
}

// newKey runs `gateway tenant create`.
func (s *Stack) newKey(ctx context.Context, slug string, flags ...string) (key string, err error) {
	env := map[string]string{"DATABASE_URL": s.AdminURL, "NOFX_ENV": s.environment(nil, s.cfg.Env)["NOFX_ENV"]}
	out, err := output(ctx, env, s.cfg.Binaries.Gateway, append([]string{"tenant", "create", slug}, flags...)...)
	if err != nil {
		return "", fmt.Errorf("create tenant %s: %w", slug, err)
	}
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "nofx_") {
			return line, nil
		}
	}
	return "", errors.New("create tenant " + slug + ": no key was printed")
}
