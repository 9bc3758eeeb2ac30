package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// stillAway is the interval of log lines that something still does not respond.
const stillAway = time.Minute

// Outage reduces repeated errors in a log to one line when something stops responding and
// one when it responds again, with the number of lines left out between: loops that try
// several times a second would write one line each time.
//
// Lines within a trace stay, since people search for lines of a request or a step. Errors
// of another kind stay as well, except River's, whose kind is lost.
type Outage struct {
	what string
	is   func(error) bool
	log  *slog.Logger

	mu    sync.Mutex
	since time.Time // zero while it answers
	told  time.Time
	left  int
}

// NewOutage makes an Outage for the thing named what; is recognizes its errors. It also
// returns log without the repeated lines.
func NewOutage(what string, is func(error) bool, log *slog.Logger) (*Outage, *slog.Logger) {
	o := &Outage{what: what, is: is, log: log}
	return o, slog.New(outageHandler{log.Handler(), o})
}

// Over notes that it answers.
func (o *Outage) Over() {
	o.mu.Lock()
	since, left := o.since, o.left
	o.since, o.left = time.Time{}, 0
	o.mu.Unlock()
	if left > 0 {
		o.log.Warn(o.what+" answers again", "away_ms", time.Since(since).Milliseconds(), "lines_left_out", left)
	}
}

// leaveOut reports whether a line with that error is left out.
func (o *Outage) leaveOut(err error, rivers bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	away := !o.since.IsZero()
	switch {
	case err != nil && o.is(err) && !away:
		o.since, o.told = time.Now(), time.Now()
		return false
	case !away || !rivers && (err == nil || !o.is(err)):
		return false
	case time.Since(o.told) > stillAway:
		o.told = time.Now()
		return false
	}
	o.left++
	return true
}

type outageHandler struct {
	slog.Handler
	outage *Outage
}

func (h outageHandler) Handle(ctx context.Context, rec slog.Record) error {
	if trace, _ := IDs(ctx); rec.Level < slog.LevelWarn || trace != "" {
		return h.Handler.Handle(ctx, rec)
	}
	var err error
	rivers := false
	rec.Attrs(func(a slog.Attr) bool {
		if rivers = a.Key == "err"; a.Key == "error" || rivers {
			err, _ = a.Value.Any().(error)
			return false
		}
		return true
	})
	if h.outage.leaveOut(err, rivers) {
		return nil
	}
	return h.Handler.Handle(ctx, rec)
}

func (h outageHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return outageHandler{h.Handler.WithAttrs(attrs), h.outage}
}

func (h outageHandler) WithGroup(name string) slog.Handler {
	return outageHandler{h.Handler.WithGroup(name), h.outage}
}
