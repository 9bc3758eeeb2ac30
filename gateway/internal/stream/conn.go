package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
)

// Limits are the intervals and deadlines of streams; a zero field has its default.
type Limits struct {
	MaxAge       time.Duration // 240 s ± 10 %: below the 300 s that platforms allow
	KeepAlive    time.Duration // 15 s
	WriteTimeout time.Duration // 10 s per flush, and of not catching up
	PollBusy     time.Duration // 25 ms
	PollIdle     time.Duration // 1 s
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&l.MaxAge, 240*time.Second)
	set(&l.KeepAlive, 15*time.Second)
	set(&l.WriteTimeout, 10*time.Second)
	set(&l.PollBusy, 25*time.Millisecond)
	set(&l.PollIdle, time.Second)
	return l
}

// retry is the time that clients are asked to wait before they connect again.
const retry = 2 * time.Second

// Conn is one open event stream. It is for one goroutine.
type Conn struct {
	ctx    context.Context // of the request
	w      http.ResponseWriter
	rc     *http.ResponseController
	limits Limits
	done   <-chan struct{} // the process ends
	check  func(context.Context) error
	age    *time.Timer
	tick   *time.Ticker

	out  bytes.Buffer
	at   string // where the reader is
	sent string // the cursor that the reader has
}

// Open starts an event stream as the answer of r: headers and the first bytes, which the
// next flush sends. At every keep-alive, check reports whether the caller may still read;
// fault.Unauthenticated, fault.Forbidden or fault.NotFound end the stream. Close frees the
// resources of the stream.
func (h *Hub) Open(w http.ResponseWriter, r *http.Request, check func(context.Context) error) *Conn {
	l := h.cfg.Limits
	jitter := time.Duration((rand.Float64() - 0.5) * 0.2 * float64(l.MaxAge))
	c := &Conn{
		ctx: r.Context(), w: w, rc: http.NewResponseController(w), limits: l, done: h.done, check: check,
		age: time.NewTimer(l.MaxAge + jitter), tick: time.NewTicker(l.KeepAlive),
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream; charset=utf-8")
	header.Set("Cache-Control", "no-cache, no-transform")
	header.Set("X-Accel-Buffering", "no")
	// The server's limit for reading a request would end the stream.
	_ = c.rc.SetReadDeadline(time.Time{})
	w.WriteHeader(http.StatusOK)
	fmt.Fprintf(&c.out, "retry: %d\n: nofx\n\n", retry.Milliseconds())
	return c
}

// Close stops the timers of c.
func (c *Conn) Close() {
	c.age.Stop()
	c.tick.Stop()
}

// Frame adds a frame with v as its data to what the next flush sends. An id, where given,
// is the reader's new cursor.
func (c *Conn) Frame(id, event string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		data = []byte("{}") // our own structs of strings and numbers
	}
	if id != "" {
		c.Moved(id)
		c.sent = id
		c.out.WriteString("id: " + id + "\n")
	}
	c.out.WriteString("event: " + event + "\ndata: ")
	c.out.Write(data)
	c.out.WriteString("\n\n")
}

func (c *Conn) frame(f *frame, id string) {
	c.Moved(id)
	c.sent = id
	c.out.Write(f.bytes)
}

// Moved sets the reader's cursor without a frame; the next keep-alive sends it.
func (c *Conn) Moved(id string) { c.at = id }

// Flush sends the added frames within the write deadline. It returns an error when the
// reader has gone.
func (c *Conn) Flush() error {
	if c.out.Len() == 0 {
		return nil
	}
	if err := c.rc.SetWriteDeadline(time.Now().Add(c.limits.WriteTimeout)); err != nil {
		return err
	}
	if _, err := c.w.Write(c.out.Bytes()); err != nil {
		return err
	}
	c.out.Reset()
	return c.rc.Flush()
}

// Wait returns when changed is closed, or after poll if that is above zero, and keeps the
// stream alive meanwhile. It returns a reason when the caller has to end the stream, and an
// error when the reader has gone.
func (c *Conn) Wait(changed <-chan struct{}, poll time.Duration) (end api.StreamControlReason, err error) {
	var timer <-chan time.Time
	if poll > 0 {
		t := time.NewTimer(poll)
		defer t.Stop()
		timer = t.C
	}
	for {
		// Ends come first, also while there is always something new.
		select {
		case <-c.ctx.Done():
			return "", c.ctx.Err()
		case <-c.done:
			return api.StreamControlReasonShutdown, nil
		case <-c.age.C:
			return api.StreamControlReasonMaxAge, nil
		default:
		}
		select {
		case <-c.ctx.Done():
		case <-c.done:
		case <-c.age.C:
			return api.StreamControlReasonMaxAge, nil
		case <-changed:
			return "", nil
		case <-timer:
			return "", nil
		case <-c.tick.C:
			if c.revoked() {
				return api.StreamControlReasonRevoked, nil
			}
			if err := c.keepAlive(); err != nil {
				return "", err
			}
		}
	}
}

// revoked reports whether the caller may no longer read. While the database does not
// answer, this is unknown, and there are no events either.
func (c *Conn) revoked() bool {
	switch fault.KindOf(c.check(c.ctx)) {
	case fault.Unauthenticated, fault.Forbidden, fault.NotFound:
		return true
	}
	return false
}

func (c *Conn) keepAlive() error {
	c.out.WriteString(":\n")
	if c.at != c.sent {
		c.out.WriteString("id: " + c.at + "\n")
		c.sent = c.at
	}
	c.out.WriteByte('\n')
	return c.Flush()
}

// End sends the reader the reason why the stream ends, and the cursor to continue from.
func (c *Conn) End(reason api.StreamControlReason) {
	if reason == api.StreamControlReasonShutdown {
		// So that readers do not all come back at the same instant.
		fmt.Fprintf(&c.out, "retry: %d\n\n", (retry/2 + rand.N(2*retry)).Milliseconds())
	}
	c.Frame(c.at, "stream.end", api.StreamControl{Reason: &reason, ResumeAfter: &c.at})
	_ = c.Flush()
}
