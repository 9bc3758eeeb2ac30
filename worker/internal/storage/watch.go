// Package storage knows whether object storage answers.
package storage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"nofx.dev/shared/blob"
	"nofx.dev/worker/internal/pause"
)

// How often storage that is away is asked whether it is back, and how often it is
// looked at while no attempt finds it away.
const (
	probeEvery = time.Second
	lookEvery  = 5 * time.Second
)

// Watch knows whether object storage answers, from what attempts meet: it is away
// from the first call that found it unavailable until a probe is answered. Apart from
// that it is looked at now and then, so that others learn of an outage that no attempt
// has met yet, or that keeps one waiting for an answer.
type Watch struct {
	ping   func(context.Context) error
	log    *slog.Logger
	left   chan struct{} // storage has just gone away
	turned chan struct{} // what WaitsFor returns has changed

	mu     sync.Mutex
	back   chan struct{} // nil while storage answers, else closed when it answers again
	broken bool          // the last look at it failed
}

// New makes a Watch, which looks at nothing before Run.
func New(blobs *blob.Store, log *slog.Logger) *Watch {
	return &Watch{ping: blobs.Ping, log: log, left: make(chan struct{}, 1), turned: make(chan struct{}, 1)}
}

// Note takes the error of a call that may have used storage; it may be nil.
func (w *Watch) Note(err error) {
	if !blob.IsUnavailable(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.back == nil {
		w.back = make(chan struct{})
		w.left <- struct{}{} // there is room: Run takes one before it closes back
		w.turn()
	}
}

// Away returns a channel that is closed when storage answers again, or nil while
// it answers.
func (w *Watch) Away() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.back
}

// WaitsFor names storage while it is away or a look at it fails, else nothing.
func (w *Watch) WaitsFor() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.back != nil || w.broken {
		return "storage"
	}
	return ""
}

// Turned receives when what WaitsFor returns has changed.
func (w *Watch) Turned() <-chan struct{} { return w.turned }

// turn has whoever tells of WaitsFor look again.
func (w *Watch) turn() {
	select {
	case w.turned <- struct{}{}:
	default:
	}
}

// Run looks at storage, and probes it while it is away, until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	for ctx.Err() == nil {
		w.look(ctx)
		select {
		case <-w.left:
			w.log.WarnContext(ctx, "storage is away: no step begins that needs it")
			w.probe(ctx)
		case <-time.After(pause.Jitter(lookEvery, 0.5)):
		case <-ctx.Done():
		}
	}
}

func (w *Watch) look(ctx context.Context) {
	err := w.ping(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ctx.Err() != nil || w.broken == (err != nil):
		return
	case err != nil:
		w.log.WarnContext(ctx, "storage cannot be used", "error", err)
	case w.back == nil:
		w.log.InfoContext(ctx, "storage is back")
	}
	w.broken = err != nil
	w.turn()
}

// probe returns when storage that is away is back, or with ctx.
func (w *Watch) probe(ctx context.Context) {
	for {
		if pause.For(ctx, pause.Jitter(probeEvery, 0.5)) != nil {
			return
		}
		if w.ping(ctx) == nil {
			break
		}
	}
	w.log.InfoContext(ctx, "storage is back")
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.back)
	w.back, w.broken = nil, false
	w.turn()
}
