// Package steplog stores what a step prints: in chunks of 64 KiB or one second,
// each first as an object and then as a row with its event.
//
// A [Writer] is given any bytes and stores clean, redacted UTF-8, at most 16 MiB
// per attempt. It holds at most a megabyte: where storage does not keep up it
// slows the tool down for a second, then drops output and says so in the log,
// because a log must not hold a step. For the same reason its errors are
// gathered for [Writer.Close] and fail no step. What was stored is always a
// beginning of the log without gaps in its offsets, and where the rest of it is lost,
// a mark says so that needs no storage.
package steplog

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/sieve"
)

const (
	chunkBytes  = 64 << 10
	flushAfter  = time.Second
	maxBytes    = 16 << 20 // of one attempt
	bufferBytes = 1 << 20
	stall       = time.Second      // what a slow storage may cost the tool before output is dropped
	callTimeout = 10 * time.Second // of one Put or Record
	markTimeout = 15 * time.Second // what it may cost the step to mark that its log is incomplete
)

const capped = "\n[nofx] the log is full at 16 MiB; the rest of the output is dropped\n"

// Config says where the log of one attempt goes. Put, Record and Mark are repeated
// until they succeed, so all must bear it; fault.Fenced from any ends the log.
type Config struct {
	Key    func(n int) string                                       // object key of chunk n
	Put    func(ctx context.Context, key string, data []byte) error // stores an object
	Record func(ctx context.Context, c Chunk) error                 // row and event, once the object is stored
	Mark   func(ctx context.Context, size int64) error              // ends a log that lacks some of so many bytes
	Redact func(text string) string                                 // masks secrets; nil for none
}

// Chunk is one stored piece of a log.
type Chunk struct {
	N      int   // from 1
	Start  int64 // offset of its first byte in the log
	Bytes  int64
	Lines  int // line ends in it
	Key    string
	SHA256 []byte
}

// Writer is the log of one attempt. It is safe for concurrent use.
type Writer struct {
	cfg    Config
	cancel context.CancelFunc
	data   chan struct{} // there is something to upload, or the end
	room   chan struct{} // something was taken off pending
	done   chan struct{} // closed when the uploader has ended
	start  int64         // bytes stored; the uploader's until done

	writing sync.Mutex // held by one Write at a time, over its waits
	text    sieve.Sieve
	total   int  // bytes let through
	full    bool // they were maxBytes

	mu      sync.Mutex
	pending []byte
	gap     int // bytes dropped since the last one kept
	lost    int64
	failed  int // bytes of the chunk at which the uploader gave up
	closed  bool
	err     error // why the uploader gave up
}

// Open starts the log of an attempt. Uploads run under ctx, which should be that
// of the lease and outlive the tool, so that the log of a cancelled tool is kept.
// The caller closes the writer.
func Open(ctx context.Context, cfg Config) *Writer {
	w := &Writer{
		cfg:  cfg,
		data: make(chan struct{}, 1),
		room: make(chan struct{}, 1),
		done: make(chan struct{}),
		text: sieve.New(cfg.Redact),
	}
	ctx, w.cancel = context.WithCancel(ctx)
	go w.upload(ctx)
	return w
}

// Write takes output. It may wait a second for a slow storage, but does not fail
// for it; after Close it is os.ErrClosed.
func (w *Writer) Write(p []byte) (int, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunkBytes)
		w.add(rest[:n])
		rest = rest[n:]
	}
	return len(p), nil
}

// add passes output on until the log is full.
func (w *Writer) add(p []byte) {
	if !w.full {
		w.keep(w.text.Pass(p))
	}
}

// keep puts text into the log, as far as there is room in it.
func (w *Writer) keep(text []byte) {
	if w.full {
		return
	}
	if over := w.total + len(text) - maxBytes; over > 0 {
		text = append(cutRune(text, len(text)-over), capped...)
		w.full = true
	}
	w.total += len(text)
	for len(text) > 0 {
		n := len(cutRune(text, min(len(text), chunkBytes)))
		w.enqueue(text[:n])
		text = text[n:]
	}
}

// cutRune returns the beginning of text, at most n bytes of whole characters.
func cutRune(text []byte, n int) []byte {
	for n > 0 && n < len(text) && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// enqueue hands text to the uploader, or drops it.
func (w *Writer) enqueue(text []byte) {
	patience := time.NewTimer(stall)
	defer patience.Stop()
	for !w.offer(text) {
		select {
		case <-w.room:
			continue
		case <-w.done:
		case <-patience.C:
		}
		w.drop(text)
		return
	}
}

// offer reports whether text is dealt with: kept, or dropped like that before it.
func (w *Writer) offer(text []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending)+len(text) > bufferBytes {
		if w.gap > 0 {
			w.gap += len(text)
			w.lost += int64(len(text))
		}
		return w.gap > 0
	}
	if w.gap > 0 {
		w.pending = fmt.Appendf(w.pending, "\n[nofx] %d bytes of output are missing here: the log storage did not keep up\n", w.gap)
		w.gap = 0
	}
	w.pending = append(w.pending, text...)
	signal(w.data)
	return true
}

func (w *Writer) drop(text []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gap += len(text)
	w.lost += int64(len(text))
}

// Close stores what is left and waits for it as long as patience lasts. What is not
// stored by then is marked under ctx as missing at the end of the log. The error says how
// much of the log was lost, and why.
func (w *Writer) Close(ctx, patience context.Context) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.keep(w.text.End())
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	signal(w.data)
	select {
	case <-w.done:
	case <-patience.Done():
		w.cancel()
		<-w.done
	}
	w.cancel()
	var err error
	if lost := w.lost + int64(len(w.pending)); lost > 0 {
		err = fmt.Errorf("%d bytes of the log lost: %w", lost, cmp.Or(w.err, errSlow))
	}
	if left := int64(w.failed + len(w.pending) + w.gap); left > 0 && !errors.Is(err, fault.Fenced) {
		ctx, cancel := context.WithTimeout(ctx, markTimeout)
		defer cancel()
		if markErr := retry(ctx, func(ctx context.Context) error { return w.cfg.Mark(ctx, w.start+left) }); markErr != nil {
			err = fmt.Errorf("%w; nor could that be marked: %w", err, markErr)
		}
	}
	return err
}

var errSlow = errors.New("the storage did not keep up")

// upload stores chunk after chunk until the writer is closed and empty, or a
// chunk cannot be stored.
func (w *Writer) upload(ctx context.Context) {
	defer close(w.done)
	for n := 1; ; n++ {
		data := w.next(ctx)
		if data == nil {
			return
		}
		sum := sha256.Sum256(data)
		c := Chunk{N: n, Start: w.start, Bytes: int64(len(data)), Lines: bytes.Count(data, []byte("\n")), Key: w.cfg.Key(n), SHA256: sum[:]}
		if err := w.store(ctx, c, data); err != nil {
			w.mu.Lock()
			w.err = err
			w.lost += c.Bytes
			w.failed = len(data)
			w.mu.Unlock()
			return
		}
		w.start += c.Bytes
	}
}

// next waits for a full chunk, or for what there is a second after its first
// byte. It is nil at the end.
func (w *Writer) next(ctx context.Context) []byte {
	var due <-chan time.Time
	late := false
	for {
		w.mu.Lock()
		if w.err = context.Cause(ctx); w.err != nil {
			w.mu.Unlock()
			return nil
		}
		have, closed := len(w.pending), w.closed
		if have >= chunkBytes || have > 0 && (closed || late) {
			data := w.take()
			w.mu.Unlock()
			signal(w.room)
			return data
		}
		w.mu.Unlock()
		if closed {
			return nil
		}
		if have > 0 && due == nil {
			due = time.After(flushAfter)
		}
		select {
		case <-w.data:
		case <-due:
			late = true
		case <-ctx.Done():
		}
	}
}

// take removes the next chunk from pending: at most chunkBytes, up to a line's
// end if one is near, else of whole characters.
func (w *Writer) take() []byte {
	n := len(w.pending)
	if n >= chunkBytes {
		n = len(cutRune(w.pending, chunkBytes))
		for i := n; i > chunkBytes/2; i-- {
			if w.pending[i-1] == '\n' {
				n = i
				break
			}
		}
	}
	data := append([]byte(nil), w.pending[:n]...)
	w.pending = append(w.pending[:0], w.pending[n:]...)
	return data
}

// store puts and records one chunk, again and again with growing, jittered pauses.
func (w *Writer) store(ctx context.Context, c Chunk, data []byte) error {
	put := func(ctx context.Context) error { return w.cfg.Put(ctx, c.Key, data) }
	if err := retry(ctx, put); err != nil {
		return fmt.Errorf("put chunk %d: %w", c.N, err)
	}
	record := func(ctx context.Context) error { return w.cfg.Record(ctx, c) }
	if err := retry(ctx, record); err != nil {
		return fmt.Errorf("record chunk %d: %w", c.N, err)
	}
	return nil
}

func retry(ctx context.Context, do func(context.Context) error) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(call)
		cancel()
		if err == nil || errors.Is(err, fault.Fenced) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
