package step

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
)

// How often storage that is away is asked whether it is back, and how often it is
// looked at while no attempt finds it away.
const (
	probeEvery = time.Second
	lookEvery  = 5 * time.Second
)

// storage knows whether object storage answers, from what attempts meet: it is away
// from the first call that found it unavailable until a probe is answered. Apart from
// that it is looked at now and then, so that others learn of an outage that no attempt
// has met yet, or that keeps one waiting for an answer.
type storage struct {
	ping   func(context.Context) error
	log    *slog.Logger
	left   chan struct{} // storage has just gone away
	turned chan struct{} // what waitsFor returns has changed

	mu     sync.Mutex
	back   chan struct{} // nil while storage answers, else closed when it answers again
	broken bool          // the last look at it failed
}

func newStorage(blobs *blob.Store, log *slog.Logger) *storage {
	return &storage{ping: blobs.Ping, log: log, left: make(chan struct{}, 1), turned: make(chan struct{}, 1)}
}

// note takes the error of a call that may have used storage; it may be nil.
func (s *storage) note(err error) {
	if !blob.IsUnavailable(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back == nil {
		s.back = make(chan struct{})
		s.left <- struct{}{} // there is room: run takes one before it closes back
		s.turn()
	}
}

// away returns a channel that is closed when storage answers again, or nil while
// it answers.
func (s *storage) away() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.back
}

// waitsFor names storage while it is away or a look at it fails, else nothing.
func (s *storage) waitsFor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back != nil || s.broken {
		return "storage"
	}
	return ""
}

// turn has whoever tells of waitsFor look again.
func (s *storage) turn() {
	select {
	case s.turned <- struct{}{}:
	default:
	}
}

// run looks at storage, and probes it while it is away, until ctx ends.
func (s *storage) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.look(ctx)
		select {
		case <-s.left:
			s.log.WarnContext(ctx, "storage is away: no step begins that needs it")
			s.probe(ctx)
		case <-time.After(jitter(lookEvery)):
		case <-ctx.Done():
		}
	}
}

func (s *storage) look(ctx context.Context) {
	err := s.ping(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case ctx.Err() != nil || s.broken == (err != nil):
		return
	case err != nil:
		s.log.WarnContext(ctx, "storage cannot be used", "error", err)
	case s.back == nil:
		s.log.InfoContext(ctx, "storage is back")
	}
	s.broken = err != nil
	s.turn()
}

// probe returns when storage that is away is back, or with ctx.
func (s *storage) probe(ctx context.Context) {
	for {
		if pauseFor(ctx, jitter(probeEvery)) != nil {
			return
		}
		if s.ping(ctx) == nil {
			break
		}
	}
	s.log.InfoContext(ctx, "storage is back")
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.back)
	s.back, s.broken = nil, false
	s.turn()
}

// jitter is d ± 50 %.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// admit reports whether the step of a wake-up may be claimed. While storage is away
// it holds a step that needs bytes. A worker that drains does not: the job ends, and
// the sweeper wakes again for a step that is ready without one, as it does when the
// step has been held for long, so that another worker may take it.
func (w *Worker) admit(ctx context.Context, j *river.Job[job.Step]) (bool, error) {
	back := w.storage.away()
	if back == nil {
		return true, nil
	}
	tool, err := w.db.StepTool(ctx, j.Args.TenantID, j.Args.StepID)
	if err != nil || rowOf(tool).Waits {
		return err == nil, err
	}
	select {
	case <-back:
		return true, nil
	case <-w.drain.told:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// persist stores by record what a tool came to. While storage or the database is
// away it does so again, since the tool must not run again for that, until the lease is
// lost, the worker drains or the budget is used up. Once there was a failure, record
// gets a context that ends when the worker drains.
func (a *attempt) persist(ctx, toolCtx context.Context, record func(context.Context) (postgres.Finish, error)) (postgres.Finish, error) {
	f, err := record(ctx)
	for pause := 100 * time.Millisecond; errors.Is(err, fault.Unavailable); pause = min(2*pause, 5*time.Second) {
		left := a.budgetLeft()
		if left <= 0 {
			return f, err
		}
		a.storage.note(err)
		a.log.WarnContext(ctx, "save is tried again", "error", err)
		a.awaitStorage(toolCtx, min(jitter(pause), left), left)
		if toolCtx.Err() != nil {
			return f, context.Cause(toolCtx)
		}
		if f, err = record(toolCtx); err != nil && toolCtx.Err() != nil {
			return f, context.Cause(toolCtx)
		}
	}
	return f, err
}

// awaitStorage waits for pause, and for storage if that is away, but for most at the
// most and no longer than ctx.
func (a *attempt) awaitStorage(ctx context.Context, pause, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if pauseFor(ctx, pause) != nil {
		return
	}
	if back := a.storage.away(); back != nil {
		select {
		case <-back:
		case <-ctx.Done():
		}
	}
}

// budgetLeft is how long this attempt may go on in spite of failures of the
// infrastructure, of which there was one just now. Time counts from the first failure
// of the step on; what its tool took is not failure.
func (a *attempt) budgetLeft() time.Duration {
	if a.failedAt.IsZero() {
		a.failedAt = time.Now()
	}
	left := a.budget - time.Since(a.failedAt)
	if since := a.claim.FailingSince; since != nil {
		left -= a.claim.ClaimedAt.Sub(*since)
	}
	return left
}
