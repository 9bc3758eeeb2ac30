package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"nofx.dev/gateway/api"
)

const (
	streamIdle     = 45 * time.Second // the gateway sends something every 15 s
	reconnectFirst = time.Second      // unless the server sets another
	reconnectMost  = 15 * time.Second
	maxFailures    = 10 // in a row, without one frame between them
)

// The errors that a handler of frames may return to steer the stream; any other error ends
// it.
var (
	errDone   = errors.New("the stream is complete")
	errAgain  = errors.New("the gateway asks to reconnect")
	errBroken = errors.New("the stream is not in order")
)

var errIdle = errors.New("the connection went silent")

// stream is an event stream that is opened again where it stopped.
type stream struct {
	open  func(ctx context.Context, last string, stream api.RequestEditorFn) (*http.Response, error)
	pause func(context.Context, time.Duration) error
	note  func(format string, args ...any) // for people: the connection is gone
	idle  time.Duration                    // of silence, then the connection counts as lost
}

// follow passes every frame after last to handle, once and in order, until handle returns
// errDone or the gateway says that no frame will follow. It reconnects with Last-Event-ID,
// after a growing pause with jitter. It gives up when the first connection fails, when the
// gateway refuses, and after maxFailures in a row.
func (s stream) follow(ctx context.Context, last string, handle func(*api.Frame) error) error {
	failures, connected := 0, false
	for {
		frames, retry, err := s.once(ctx, &last, handle)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if frames > 0 {
			failures = 0
		}
		var broken *brokenError
		switch {
		case errors.As(err, &broken):
			connected = connected || broken.connected
			failures++
			if !connected || failures >= maxFailures {
				return broken.error
			}
			s.note("%v; connecting again", broken)
		case errors.Is(err, errAgain):
			failures, connected = 0, true
		default:
			return err
		}
		base := reconnectFirst
		if retry > 0 {
			base = retry
		}
		if err := s.pause(ctx, jitter(min(base<<failures, reconnectMost))); err != nil {
			return err
		}
	}
}

// brokenError is a connection that was lost, or never made: worth another.
type brokenError struct {
	error
	connected bool
}

func (b *brokenError) Unwrap() error { return b.error }

// once reads one connection. It advances last with every handled frame and returns the
// number of frames, and nil when the stream has ended for good.
func (s stream) once(ctx context.Context, last *string, handle func(*api.Frame) error) (frames int, retry time.Duration, _ error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := s.open(ctx, *last, acceptStream)
	if err != nil {
		return 0, 0, &brokenError{err, false}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return 0, 0, nil
	}
	if resp.StatusCode != http.StatusOK {
		_, _, err := call[json.RawMessage](resp, nil)
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= http.StatusInternalServerError {
			err = &brokenError{err, false}
		}
		return 0, 0, err
	}
	if got, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); got != api.EventStream {
		return 0, 0, fmt.Errorf("the gateway sent %q instead of a stream", got)
	}
	alarm := time.AfterFunc(s.idle, func() { cancel(errIdle) }) // a dead peer sends no FIN
	defer alarm.Stop()
	reader := api.NewFrameReader(watched{resp.Body, alarm, s.idle})
	for {
		f, err := reader.Next()
		if err != nil {
			switch {
			case errors.Is(context.Cause(ctx), errIdle):
				err = errIdle
			case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
				err = errors.New("the connection was closed")
			}
			return frames, reader.Retry(), &brokenError{err, true}
		}
		err = handle(&f)
		if err == nil || errors.Is(err, errAgain) {
			if f.ID != "" {
				*last = f.ID
			}
			frames++
		}
		switch {
		case errors.Is(err, errDone):
			return frames, 0, nil
		case errors.Is(err, errBroken):
			return frames, reader.Retry(), &brokenError{err, true}
		case err != nil:
			return frames, reader.Retry(), err
		}
	}
}

func acceptStream(_ context.Context, req *http.Request) error {
	req.Header.Set("Accept", api.EventStream)
	return nil
}

// watched puts the alarm off whenever something arrives.
type watched struct {
	io.Reader
	alarm *time.Timer
	idle  time.Duration
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.alarm.Reset(w.idle)
	}
	return n, err
}

// eventFeed handles the frames of an event stream: it processes control frames and passes
// events on.
type eventFeed struct {
	dense bool  // seq must grow by one: the unfiltered stream of one run
	seq   int64 // of the newest event: 0 before the first, -1 when not known
	event func(e api.Event, raw string) error
	gap   func(reason string) error // events were deleted: read the run again
}

func (d *eventFeed) handle(f *api.Frame) error {
	if f.Data == "" {
		return nil
	}
	switch f.Event {
	case "stream.ready":
		return nil
	case "stream.gap", "stream.end":
		var c api.StreamControl
		if err := json.Unmarshal([]byte(f.Data), &c); err != nil {
			return fmt.Errorf("a %s frame that cannot be read: %w", f.Event, err)
		}
		return d.control(f, c)
	}
	var e api.Event
	if err := json.Unmarshal([]byte(f.Data), &e); err != nil {
		return fmt.Errorf("an event that cannot be read: %w", err)
	}
	if d.dense && d.seq >= 0 {
		switch {
		case e.Seq <= d.seq:
			return nil // seen before the connection was lost
		case e.Seq > d.seq+1:
			return fmt.Errorf("%w: event %d came after %d", errBroken, e.Seq, d.seq)
		}
	}
	if err := d.event(e, f.Data); err != nil {
		return err
	}
	d.seq = e.Seq
	return nil
}

func (d *eventFeed) control(f *api.Frame, c api.StreamControl) error {
	reason := string(deref(c.Reason))
	if f.Event == "stream.gap" {
		d.seq = -1
		return d.gap(reason)
	}
	switch deref(c.Reason) {
	case api.StreamControlReasonFinal:
		return errDone
	case api.StreamControlReasonRevoked:
		return errors.New("the gateway ended the stream: the key may no longer read it")
	}
	if c.ResumeAfter != nil {
		f.ID = *c.ResumeAfter
	}
	return errAgain
}
