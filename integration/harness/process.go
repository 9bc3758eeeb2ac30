package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"nofx.dev/shared/servertest/child"
)

// A process that dies is started again after firstDelay; each time that it has
// lived less than calm doubles the delay, up to lastDelay.
const (
	firstDelay = 200 * time.Millisecond
	lastDelay  = 5 * time.Second
	calm       = 10 * time.Second
)

// stopGrace is how long a process may take to end before it is killed. A worker
// hands its steps back in that time.
const stopGrace = 20 * time.Second

// process is what a [Process] is made of.
type process struct {
	name    string
	program string
	args    []string
	env     map[string]string
	log     string // path
	ready   string // URL that answers 200
	metrics string // URL
	warn    func(process, line string)
	changed func() // after each start
}

// Process is a gateway or a worker that is started again when it dies, as a
// container platform would. Its ports stay the same. Its methods may be called
// from any goroutine.
type Process struct {
	spec process
	log  *os.File
	stop chan struct{} // closed by Stop
	wake chan struct{} // do not wait for the next start
	wg   sync.WaitGroup

	mu      sync.Mutex
	news    chan struct{} // closed and replaced when something below changes
	current *child.Process
	running bool
	starts  int
	ends    int
	failure error // why the last start failed or ended
	restart bool
	stopped bool
}

func startProcess(spec process) *Process {
	p := &Process{
		spec: spec, restart: true,
		stop: make(chan struct{}), wake: make(chan struct{}, 1), news: make(chan struct{}),
	}
	var err error
	if p.log, err = openLog(spec.log); err != nil {
		p.failure = err
		p.stopped = true
		return p
	}
	p.wg.Go(p.supervise)
	if spec.warn != nil {
		p.wg.Go(p.watchLog)
	}
	return p
}

// Name returns "gateway", or "worker-" and a number.
func (p *Process) Name() string { return p.spec.name }

// MetricsURL returns where the process shows its metrics.
func (p *Process) MetricsURL() string { return p.spec.metrics }

// PID returns the id of the process that runs now, 0 when none does.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		return 0
	}
	return p.current.PID()
}

// Starts counts how often the process was started.
func (p *Process) Starts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starts
}

// Kill sends sig to the process that runs now; none is an error.
func (p *Process) Kill(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		return fmt.Errorf("signal %s: %w", p.spec.name, os.ErrProcessDone)
	}
	return p.current.Signal(sig)
}

// AutoRestart sets whether the process is started again when it dies. Turned on
// while it is dead, it is started.
func (p *Process) AutoRestart(on bool) {
	p.mu.Lock()
	p.restart = on
	p.mu.Unlock()
	if on {
		p.hurry()
	}
}

// SetEnv adds to the environment of the next start.
func (p *Process) SetEnv(extra map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	env := make(map[string]string, len(p.spec.env)+len(extra))
	for _, from := range []map[string]string{p.spec.env, extra} {
		for k, v := range from {
			env[k] = v
		}
	}
	p.spec.env = env
}

// Restart ends the process in good order, starts it and waits until it is ready,
// whatever AutoRestart says.
func (p *Process) Restart(ctx context.Context) error {
	p.mu.Lock()
	current, running, before := p.current, p.running, p.starts
	p.mu.Unlock()
	if running {
		current.Stop(syscall.SIGTERM, stopGrace)
	}
	if err := p.await(ctx, func() bool { return !p.running || p.starts > before }); err != nil {
		return err
	}
	p.hurry()
	if err := p.await(ctx, func() bool { return p.starts > before }); err != nil {
		return err
	}
	return p.Ready(ctx)
}

// Ended waits until the start'th start of the process has ended (1 is the
// first).
func (p *Process) Ended(ctx context.Context, start int) error {
	return p.await(ctx, func() bool { return p.starts > start || p.starts == start && !p.running })
}

// Ready waits until the process says that it is ready. It gives up when ctx
// ends, when three minutes did not suffice, and when the process dies three times
// meanwhile, which is no accident.
func (p *Process) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for before := -1; ; {
		last := p.probe(ctx)
		if last == nil {
			return nil
		}
		p.mu.Lock()
		stopped, ends, failure := p.stopped, p.ends, p.failure
		p.mu.Unlock()
		if before < 0 {
			before = ends
		}
		if stopped || ends-before >= 3 {
			return fmt.Errorf("%s ends by itself: %w; its log ends: %s", p.spec.name, failure, lastLines(p.spec.log))
		}
		if pause(ctx, 25*time.Millisecond) != nil {
			return fmt.Errorf("%s is not ready: %w; its log ends: %s", p.spec.name, last, lastLines(p.spec.log))
		}
	}
}

func (p *Process) probe(ctx context.Context) error {
	if p.PID() == 0 {
		return errors.New("it does not run")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.spec.ready, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d: %s", p.spec.ready, resp.StatusCode, body)
	}
	return nil
}

// Stop ends the process for good and waits for it.
func (p *Process) Stop() {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	p.stopped = true
	close(p.stop)
	current, running := p.current, p.running
	p.mu.Unlock()
	if running {
		current.Signal(syscall.SIGCONT) //nolint:errcheck // one that a test has stopped hears no SIGTERM
		current.Stop(syscall.SIGTERM, stopGrace)
	}
	p.wg.Wait()
	p.log.Close()
}

// supervise starts the process again and again, until Stop.
func (p *Process) supervise() {
	for delay := firstDelay; ; {
		began := time.Now()
		p.once()
		if time.Since(began) > calm {
			delay = firstDelay
		}
		p.mu.Lock()
		var again <-chan time.Time
		if p.restart {
			again = time.After(delay)
		}
		p.mu.Unlock()
		select {
		case <-p.stop:
			return
		case <-p.wake:
			delay = firstDelay
		case <-again:
			delay = min(2*delay, lastDelay)
		}
	}
}

// once starts the process and waits for its end.
func (p *Process) once() {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	cmd := exec.Command(p.spec.program, p.spec.args...)
	cmd.Env = environ(p.spec.env)
	cmd.Stdout, cmd.Stderr = p.log, p.log // the file itself: a pipe would break with us
	// Killed with us, not asked: without a database it could hand nothing back,
	// and a worker's steps end with it.
	current, err := child.Start(cmd, syscall.SIGKILL)
	p.starts++
	ended := p.failure
	p.failure = err
	select { // a call that came while we were starting anyway
	case <-p.wake:
	default:
	}
	if err == nil {
		p.current, p.running = current, true
	}
	p.tell()
	if err != nil {
		p.ends++
	}
	p.mu.Unlock()
	if err != nil {
		return
	}
	if ended != nil && p.spec.warn != nil {
		p.spec.warn(p.spec.name, fmt.Sprintf("has ended (%v) and is started again, pid %d", ended, current.PID()))
	}
	if p.spec.changed != nil {
		p.spec.changed()
	}
	<-current.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.failure = false, current.Err()
	p.ends++
	if p.failure == nil {
		p.failure = errors.New("exit status 0")
	}
	p.tell()
}

// hurry has a dead process started now.
func (p *Process) hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// tell wakes those that await a change; p.mu is held.
func (p *Process) tell() {
	close(p.news)
	p.news = make(chan struct{})
}

// await waits until cond, called with p.mu held, is true.
func (p *Process) await(ctx context.Context, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, news := cond(), p.news
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-news:
		case <-p.stop:
			return fmt.Errorf("%s was stopped", p.spec.name)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", p.spec.name, ctx.Err())
		}
	}
}

// pause waits for d, or returns why ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
