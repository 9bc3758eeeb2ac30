package httpapi

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/gateway/internal/stream"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

const (
	logPoll    = 500 * time.Millisecond // how often a follower looks
	logTimeout = 10 * time.Minute       // what a log may take; its reader can go on by a range
	logWrite   = 30 * time.Second       // what one chunk may take to reach its reader
	logAhead   = 4                      // chunks that are fetched while one is sent
	logLook    = 32                     // chunks that a follower is sent between two looks
)

// getStepLogs answers the log of one attempt, the latest unless it is named:
// whole, a range of it, or, with follow=1, as it grows.
func (s *Server) getStepLogs(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	var fence *int64
	if n := q.number("attempt", 1, 1<<62, 0); n > 0 {
		fence = &n
	}
	follow := oneOf(q, "follow", "1") != ""
	if err := q.err(); err != nil {
		return err
	}
	step, err := pathID(c, run.StepID, "step_id")
	if err != nil {
		return err
	}
	if follow && infoOf(c).stream {
		return s.followLog(c, p, step, fence)
	}
	l, err := s.Store.Log(c.Request().Context(), p.Tenant, step, fence, 0, 0)
	if err != nil {
		return err
	}
	return s.sendLog(c, l)
}

// sendLog answers the log, or the one range of it that was asked for. Chunks are
// verified before a byte of them is sent.
func (s *Server) sendLog(c echo.Context, l postgres.Log) error {
	size := l.Size
	header := c.Response().Header()
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("Accept-Ranges", "bytes")
	from, to, status := int64(0), size, http.StatusOK
	if given := c.Request().Header.Get("Range"); given != "" {
		switch a, b, ok := parseRange(given, size); {
		case ok && a >= size:
			header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			return fault.New(fault.Invalid, "range-not-satisfiable", "the log has %s", fault.Count(size, "byte"))
		case ok:
			from, to, status = a, b, http.StatusPartialContent
			header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, size))
		}
	}
	header.Set("Content-Length", strconv.FormatInt(to-from, 10))
	if c.Request().Method == http.MethodHead {
		c.Response().WriteHeader(status)
		return nil
	}
	wanted := slices.DeleteFunc(l.Chunks, func(chunk postgres.LogChunk) bool { return chunk.Start+chunk.Bytes <= from || chunk.Start >= to })
	control := http.NewResponseController(c.Response())
	for chunk, err := range s.readChunks(c.Request().Context(), wanted) {
		if err != nil {
			header.Del("Content-Range")
			return err
		}
		text := chunk.text[max(0, from-chunk.Start):min(chunk.Bytes, to-chunk.Start)]
		if err := control.SetWriteDeadline(time.Now().Add(logWrite)); err != nil {
			return err
		}
		if !c.Response().Committed {
			c.Response().WriteHeader(status)
		}
		if _, err := c.Response().Write(text); err != nil {
			return err
		}
	}
	if !c.Response().Committed {
		c.Response().WriteHeader(status)
	}
	return nil
}

type chunkText struct {
	postgres.LogChunk
	text []byte
}

// readChunks yields chunks in their order with their bytes, verified, while the
// next few are fetched. An error is the last that it yields.
func (s *Server) readChunks(ctx context.Context, chunks []postgres.LogChunk) iter.Seq2[chunkText, error] {
	return func(yield func(chunkText, error) bool) {
		var fetches sync.WaitGroup
		defer fetches.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		type answer struct {
			chunkText
			err error
		}
		answers := make([]chan answer, len(chunks))
		fetch := func(i int) {
			if i < len(chunks) {
				answers[i] = make(chan answer, 1)
				fetches.Go(func() {
					text, err := s.readChunk(ctx, chunks[i])
					answers[i] <- answer{chunkText{chunks[i], text}, err}
				})
			}
		}
		for i := range logAhead {
			fetch(i)
		}
		for i := range chunks {
			got := <-answers[i]
			fetch(i + logAhead)
			if !yield(got.chunkText, got.err) || got.err != nil {
				return
			}
		}
	}
}

// readChunk returns the verified bytes of one chunk.
func (s *Server) readChunk(ctx context.Context, chunk postgres.LogChunk) ([]byte, error) {
	if chunk.Mark != "" {
		return []byte(chunk.Mark), nil
	}
	r, err := s.Blobs.Open(ctx, chunk.Key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(blob.Verify(r, [32]byte(chunk.SHA256), chunk.Bytes))
}

// parseRange reads one range of bytes as [from, to). ok is false for what the
// standard lets a server ignore: other units, several ranges, nonsense. A from at
// or behind size cannot be satisfied.
func parseRange(s string, size int64) (from, to int64, ok bool) {
	spec, ok := strings.CutPrefix(strings.TrimSpace(s), "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, 0, false
	}
	number := func(s string) (int64, bool) {
		n, err := strconv.ParseUint(s, 10, 63)
		return int64(n), err == nil
	}
	if first == "" { // the last n bytes
		n, ok := number(last)
		if !ok {
			return 0, 0, false
		}
		if n == 0 {
			return size, size, true
		}
		return max(0, size-n), size, true
	}
	if from, ok = number(first); !ok {
		return 0, 0, false
	}
	if last == "" {
		return from, size, true
	}
	n, ok := number(last)
	if !ok || n < from {
		return 0, 0, false
	}
	return from, min(n, size-1) + 1, true
}

// followLog answers the log as a stream, from the start or from where the reader
// was, until the attempt has ended and all of it was sent.
func (s *Server) followLog(c echo.Context, p *identity.Principal, step uuid.UUID, fence *int64) error {
	ctx := c.Request().Context()
	var sent int64
	if last := c.Request().Header.Get("Last-Event-ID"); last != "" {
		var err error
		if sent, err = stream.ParseSeq(last); err != nil {
			return err
		}
	}
	l, err := s.Store.Log(ctx, p.Tenant, step, fence, sent, logLook)
	if err != nil {
		return err
	}
	conn := s.Hub.Open(c.Response(), c.Request(), s.still(c, p))
	defer conn.Close()
	conn.Moved(stream.FormatSeq(sent))
	if conn.Flush() != nil { // the reader learns at once that the stream is open, before storage answers
		return nil
	}
	for {
		if l.Fence > 0 && fence == nil {
			fence = new(l.Fence) // a later attempt has a log of its own
		}
		if err == nil {
			sent, err = s.sendGrown(ctx, conn, l, sent)
		}
		if err == nil && l.Ended && sent >= l.Size {
			conn.Frame(stream.FormatSeq(l.Size), "end", api.LogEnd{Offset: l.Size, Fence: ptr(l.Fence)})
			_ = conn.Flush() // the stream ends in any case
			return nil
		}
		if conn.Flush() != nil {
			return nil // nobody reads any more
		}
		if ctx.Err() == nil && err != nil {
			switch fault.KindOf(err) {
			case fault.Unavailable: // it may come back
			default:
				return err
			}
		}
		poll := logPoll
		if err == nil && len(l.Chunks) == logLook {
			poll = time.Nanosecond // there is more
		}
		end, gone := conn.Wait(nil, poll)
		if gone != nil {
			return nil
		}
		if end != "" {
			conn.End(end)
			return nil
		}
		l, err = s.Store.Log(ctx, p.Tenant, step, fence, sent, logLook)
	}
}

// sendGrown sends the part of l after sent, and returns the new end. A rune that is cut by
// the end of the log waits for its rest, unless the log is complete.
func (s *Server) sendGrown(ctx context.Context, conn *stream.Conn, l postgres.Log, sent int64) (int64, error) {
	for chunk, err := range s.readChunks(ctx, l.Chunks) {
		if err != nil {
			return sent, err
		}
		text := chunk.text[max(0, sent-chunk.Start):]
		if !l.Ended || chunk.Start+chunk.Bytes < l.Size {
			text = wholeRunes(text)
		}
		if len(text) == 0 {
			continue
		}
		from := max(sent, chunk.Start)
		sent = from + int64(len(text))
		conn.Frame(stream.FormatSeq(sent), "log", api.LogFrame{Offset: from, Text: strings.ToValidUTF8(string(text), "\uFFFD")})
		if err := conn.Flush(); err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// wholeRunes cuts off the beginning of a rune at the end of b.
func wholeRunes(b []byte) []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		tail := b[len(b)-i:]
		if utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return b[:len(b)-i]
			}
			break
		}
	}
	return b
}
