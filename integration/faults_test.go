package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"nofx.dev/integration/harness"
)

// faults breaks one thing at a time below a stack that has servers of its own, and
// mends it. Workers reach the servers through proxies.
type faults struct {
	s          *system
	db         *harness.Proxy
	storage    *harness.Proxy
	postmaster int // 0: the server is not this machine's to stop
	s3         int
}

// fragile starts a stack with its own servers and n workers that reach them
// through proxies.
func fragile(t *testing.T, n int, cfg harness.Config) (*system, *faults) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	own, err := harness.StartServers(ctx, harness.ServersConfig{})
	if err != nil {
		t.Fatalf("StartServers() = %v", err)
	}
	t.Cleanup(own.Stop)
	cfg.Servers = own
	var proxies []*harness.Proxy
	t.Cleanup(func() { // after the stack, which needs them to stop in good order
		for _, p := range proxies {
			p.Close()
		}
	})
	s := up(t, cfg)
	f := &faults{s: s, db: proxy(t, s.WorkerDB), storage: proxy(t, s.S3.Endpoint), s3: serverAt(t, s.S3.Endpoint)}
	proxies = append(proxies, f.db, f.storage)
	if os.Getenv("DATABASE_URL") == "" { // else nobody started a server for us
		f.postmaster = postmaster(t, s)
		// As the processes may expect; a temporary server forgets what it acknowledged.
		f.logins(t, "SET synchronous_commit = on")
		f.admin(t, ofApp)
	}
	f.db.Mark("nofx.heartbeat(") // the connections that renew leases
	t.Cleanup(func() { f.mend(t) })
	for range n {
		if _, err := s.AddWorker(ctx, f.env()); err != nil {
			t.Fatal(err)
		}
	}
	return s, f
}

// proxy returns a proxy before the server of an address.
func proxy(t *testing.T, address string) *harness.Proxy {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p, err := harness.NewProxy(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// env returns the environment of a worker that reaches the servers through the proxies.
func (f *faults) env() map[string]string {
	through := func(address string, p *harness.Proxy) string {
		u, err := url.Parse(address)
		if err != nil {
			return address
		}
		u.Host = p.Addr
		return u.String()
	}
	database := through(f.s.WorkerDB, f.db)
	return map[string]string{
		"DATABASE_URL": database, "NOFX_DATABASE_LISTEN_URL": database, "NOFX_S3_ENDPOINT": through(f.s.S3.Endpoint, f.storage),
	}
}

// postmaster returns the first process of the database's server.
func postmaster(t *testing.T, s *system) int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(one[string](t, s, "SHOW data_directory"), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || !alive(first) {
		t.Fatalf("postmaster.pid says %q, want a living process", first)
	}
	return pid
}

// serverAt returns the process that was told to serve the host and port of an address.
func serverAt(t *testing.T, address string) int {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	pids := ofStack(t, host+":"+port)
	if len(pids) != 1 {
		t.Fatalf("processes that serve %s = %v, want one", u.Host, pids)
	}
	pid, _ := strconv.Atoi(pids[0])
	return pid
}

// children returns the processes that pid started and that have not been waited for.
func children(pid int) (all []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		n, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			continue
		}
		if fields, err := statOf(n); err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			all = append(all, n)
		}
	}
	return all
}

// signalAll signals processes, of which some may have ended.
func signalAll(sig syscall.Signal, pids ...int) {
	for _, pid := range pids {
		syscall.Kill(pid, sig) //nolint:errcheck // see above
	}
}

// hold waits for d, or until ctx ends: a schedule, not a wait for an effect.
func hold(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// mend ends all faults that may be left.
func (f *faults) mend(t *testing.T) {
	t.Helper()
	if f.postmaster != 0 {
		signalAll(syscall.SIGCONT, append(children(f.postmaster), f.postmaster)...)
		f.logins(t, "LOGIN")
	}
	signalAll(syscall.SIGCONT, f.s3)
	for _, w := range f.s.Workers() {
		w.Kill(syscall.SIGCONT) //nolint:errcheck // one that does not run needs none
	}
	for _, p := range []*harness.Proxy{f.db, f.storage} {
		if err := p.Pass(); err != nil {
			t.Errorf("Pass() = %v", err)
		}
	}
}

// admin runs a statement as administrator. It works at the end of a test too.
func (f *faults) admin(t *testing.T, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	if _, err := f.s.db.Exec(ctx, sql); err != nil {
		t.Errorf("%s = %v", sql, err)
	}
}

// logins alters the roles of gateways and workers.
func (f *faults) logins(t *testing.T, change string) {
	t.Helper()
	for _, role := range []string{"nofx_gateway", "nofx_worker"} {
		f.admin(t, "ALTER ROLE "+role+" "+change)
	}
}

// ofApp are the sessions of gateway and workers in the stack's own database.
const ofApp = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('nofx_gateway', 'nofx_worker') AND datname = current_database()"

// refuse has the database refuse connections for d, and no session survives.
func (f *faults) refuse(ctx context.Context, t *testing.T, d time.Duration) {
	f.logins(t, "NOLOGIN")
	f.admin(t, ofApp)
	hold(ctx, d)
	f.logins(t, "LOGIN")
}

// freeze stops every process of the database for d.
func (f *faults) freeze(ctx context.Context, t *testing.T, d time.Duration) {
	signalAll(syscall.SIGSTOP, f.postmaster)
	pids := append([]int{f.postmaster}, children(f.postmaster)...)
	signalAll(syscall.SIGSTOP, pids...)
	// A stopped server hears no request to end, so it must not stay stopped when
	// this process dies meanwhile.
	thaw := exec.Command("sh", "-c", fmt.Sprintf("sleep %d; kill -CONT %s", int(d.Seconds())+30, strings.Trim(fmt.Sprint(pids), "[]")))
	thaw.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := thaw.Start(); err != nil {
		t.Errorf("start what ends the freeze in any case: %v", err)
	}
	hold(ctx, d)
	slices.Reverse(pids)
	signalAll(syscall.SIGCONT, pids...)
	if thaw.Process != nil {
		syscall.Kill(-thaw.Process.Pid, syscall.SIGKILL) //nolint:errcheck // our own child, not waited for
		thaw.Wait()                                      //nolint:errcheck // it was killed
	}
}

// faultKind is a fault that is done, and undone when do returns. One that needs
// the server's processes is left out where these are not ours.
type faultKind struct {
	name  string
	local bool
	do    func(ctx context.Context, t *testing.T, f *faults, rnd *rand.Rand)
}

// between returns a random duration.
func between(rnd *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rnd.Int64N(int64(most-least)+1))
}

func anyWorker(f *faults, rnd *rand.Rand) *harness.Process {
	all := f.s.Workers()
	return all[rnd.IntN(len(all))]
}

var faultKinds = []faultKind{
	{"worker killed", false, func(_ context.Context, _ *testing.T, f *faults, rnd *rand.Rand) {
		anyWorker(f, rnd).Kill(syscall.SIGKILL) //nolint:errcheck // one that is being restarted is dead already
	}},
	{"database refuses", true, func(ctx context.Context, t *testing.T, f *faults, rnd *rand.Rand) {
		f.refuse(ctx, t, between(rnd, 3*time.Second, 12*time.Second))
	}},
	{"database frozen", true, func(ctx context.Context, t *testing.T, f *faults, rnd *rand.Rand) {
		f.freeze(ctx, t, between(rnd, 3*time.Second, 12*time.Second))
	}},
	{"database unreachable", false, func(ctx context.Context, t *testing.T, f *faults, rnd *rand.Rand) {
		f.db.Refuse()
		hold(ctx, between(rnd, 3*time.Second, 12*time.Second))
		if err := f.db.Pass(); err != nil {
			t.Errorf("Pass() = %v", err)
		}
	}},
	{"sessions terminated", false, func(ctx context.Context, t *testing.T, f *faults, rnd *rand.Rand) {
		for range 1 + rnd.IntN(5) {
			f.admin(t, ofApp)
			hold(ctx, 200*time.Millisecond)
		}
	}},
	{"storage refuses", false, func(ctx context.Context, t *testing.T, f *faults, rnd *rand.Rand) {
		f.storage.Refuse()
		hold(ctx, between(rnd, 3*time.Second, 10*time.Second))
		if err := f.storage.Pass(); err != nil {
			t.Errorf("Pass() = %v", err)
		}
	}},
	{"storage frozen", false, func(ctx context.Context, _ *testing.T, f *faults, rnd *rand.Rand) {
		signalAll(syscall.SIGSTOP, f.s3)
		hold(ctx, between(rnd, 3*time.Second, 8*time.Second))
		signalAll(syscall.SIGCONT, f.s3)
	}},
	{"worker stopped", false, func(ctx context.Context, _ *testing.T, f *faults, rnd *rand.Rand) {
		w := anyWorker(f, rnd)
		if w.Kill(syscall.SIGSTOP) != nil {
			return // it is being restarted
		}
		hold(ctx, between(rnd, 6*time.Second, 9*time.Second)) // beyond its leases
		w.Kill(syscall.SIGCONT)                               //nolint:errcheck // nobody else ends it
	}},
}

// schedule does faults in random order, of each kind at least one, and goes on until
// d has passed. It returns how many there were of each.
func (f *faults) schedule(ctx context.Context, t *testing.T, rnd *rand.Rand, d time.Duration) map[string]int {
	done := map[string]int{}
	for began := time.Now(); ctx.Err() == nil; {
		deck := slices.DeleteFunc(slices.Clone(faultKinds), func(k faultKind) bool { return k.local && f.postmaster == 0 })
		for range 3 { // deaths are what happens most
			deck = append(deck, faultKinds[0])
		}
		rnd.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		first := len(done) == 0
		for _, k := range deck {
			hold(ctx, between(rnd, time.Second, 3*time.Second))
			if ctx.Err() != nil || !first && time.Since(began) >= d {
				return done
			}
			k.do(ctx, t, f, rnd)
			done[k.name]++
		}
		if time.Since(began) >= d {
			return done
		}
	}
	return done
}
