package codehost

import (
	"context"
	"sync"
	"time"

	"nofx.dev/worker/internal/reviewer"
)

// host is what all forges have in common: the two sessions with a server.
type host struct {
	cfg  Config
	from provider
	rest rest

	mu    sync.Mutex
	read  *session
	write *session // nil until something is written
	wrote time.Time
}

// Close ends the sessions.
func (h *host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range []*session{h.read, h.write} {
		if s != nil {
			s.close()
		}
	}
	h.read, h.write = nil, nil
}

// reader returns the session that reads.
func (h *host) reader(ctx context.Context) (_ *session, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.read == nil {
		h.read, err = openSession(ctx, h.cfg, h.from, false)
	}
	return h.read, err
}

// writer returns the session that writes.
func (h *host) writer(ctx context.Context) (_ *session, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.write == nil {
		h.write, err = openSession(ctx, h.cfg, h.from, true)
	}
	return h.write, err
}

// get calls a tool of the session that reads.
func (h *host) get(ctx context.Context, tool string, args map[string]any) (answer, error) {
	s, err := h.reader(ctx)
	if err != nil {
		return answer{}, err
	}
	return s.call(ctx, tool, args)
}

// put calls a tool of the session that writes, once it is time for the next write.
func (h *host) put(ctx context.Context, tool string, args map[string]any) (answer, error) {
	s, err := h.writer(ctx)
	if err != nil {
		return answer{}, err
	}
	h.mu.Lock()
	err = until(ctx, h.wrote.Add(h.cfg.pace()))
	h.wrote = time.Now()
	h.mu.Unlock()
	if err != nil {
		return answer{}, err
	}
	return s.call(ctx, tool, args)
}

// unchanged checks that the server that will be written through is the one that was looked
// at.
func (h *host) unchanged(ctx context.Context) error {
	s, err := h.writer(ctx)
	if err != nil {
		return err
	}
	return s.unchanged(ctx)
}

// until waits for a moment. Forges want a second between two writes.
func until(ctx context.Context, moment time.Time) error {
	wait := time.Until(moment)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Each forge is a reviewer.CodeHost.
var (
	_ reviewer.CodeHost = (*GitHub)(nil)
	_ reviewer.CodeHost = (*Bitbucket)(nil)
)
