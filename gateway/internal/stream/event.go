package stream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// schemaVersion is the version of the data of all types of events.
const schemaVersion = 1

// Envelope returns an event as clients see it (OBSERVABILITY.md §4.1).
func Envelope(e run.Event) api.Event {
	id := run.RunID.Format(e.RunID)
	a := api.Event{
		ID:       id + "." + strconv.FormatInt(e.Seq, 10),
		Seq:      e.Seq,
		Type:     e.Type,
		RunID:    id,
		TenantID: run.TenantID.Format(e.TenantID),
		At:       e.At.UTC(),
		Actor:    e.Actor,
		TraceID:  e.TraceID,
		Schema:   schemaVersion,
		Data:     e.Data,
	}
	if e.StepID != nil {
		step := run.StepID.Format(*e.StepID)
		a.StepID = &step
	}
	if e.ActorName != "" {
		a.ActorName = &e.ActorName
	}
	if e.SpanID != "" {
		a.SpanID = &e.SpanID
	}
	return a
}

// Cursor is a place in a feed, or, by its Seq alone, in the events of a run.
type Cursor = postgres.FeedCursor

// FormatFeed returns the opaque form of a feed's cursor.
func FormatFeed(c Cursor) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "feed:%d.%d.%s.%d", c.Epoch, c.XID, hexID(c.Run), c.Seq))
}

// ParseFeed returns the cursor that FormatFeed wrote; anything else is fault.Invalid
// (bad-cursor).
func ParseFeed(s string) (Cursor, error) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	text, ok := strings.CutPrefix(string(raw), "feed:")
	parts := strings.Split(text, ".")
	if err == nil && ok && len(parts) == 4 {
		epoch, err1 := strconv.ParseInt(parts[0], 10, 32)
		xid, err2 := strconv.ParseInt(parts[1], 10, 64)
		id, err3 := run.RunID.Parse(string(run.RunID) + "_" + parts[2])
		seq, err4 := strconv.ParseInt(parts[3], 10, 64)
		c := Cursor{Epoch: int32(epoch), XID: xid, Run: id, Seq: seq}
		if errors.Join(err1, err2, err3, err4) == nil && min(epoch, xid, seq) >= 0 && FormatFeed(c) == s {
			return c, nil
		}
	}
	return Cursor{}, badCursor()
}

// FormatSeq returns the form of a run's cursor: its seq in decimal digits.
func FormatSeq(seq int64) string { return strconv.FormatInt(seq, 10) }

// ParseSeq returns the seq that FormatSeq wrote; anything else is fault.Invalid
// (bad-cursor).
func ParseSeq(s string) (int64, error) {
	seq, err := strconv.ParseInt(s, 10, 64)
	if err != nil || seq < 0 || FormatSeq(seq) != s {
		return 0, badCursor()
	}
	return seq, nil
}

func badCursor() error {
	return fault.New(fault.Invalid, "bad-cursor", "this is not a cursor of this list")
}

func hexID(id uuid.UUID) string { return strings.ReplaceAll(id.String(), "-", "") }

// compare orders cursors of one epoch.
func compare(a, b Cursor) int {
	return cmp.Or(cmp.Compare(a.XID, b.XID), bytes.Compare(a.Run[:], b.Run[:]), cmp.Compare(a.Seq, b.Seq))
}

// frame is one event, encoded once for all its readers.
type frame struct {
	at      Cursor
	run     uuid.UUID
	project string // of a feed
	typ     string
	bytes   []byte
}

// final reports whether f ends its run.
func (f *frame) final() bool {
	state, ok := strings.CutPrefix(f.typ, "run.")
	return ok && run.RunMachine.Terminal(run.State(state))
}

// source is the input of a topic: the events of one run, or the whole feed of a tenant, so
// that the number of queries does not grow with the number of readers. Its cursors are a
// seq or a feed's.
type source struct {
	tenant uuid.UUID
	run    uuid.UUID // uuid.Nil: the feed
}

func (s source) name() string {
	if s.run != uuid.Nil {
		return "run"
	}
	return "feed"
}

func (s source) format(c Cursor) string {
	if s.run != uuid.Nil {
		return FormatSeq(c.Seq)
	}
	return FormatFeed(c)
}

// read returns at most a page of frames after a cursor, for a feed only those that f
// selects, and the cursor to continue from. more reports that other frames may be there
// already.
func (s source) read(ctx context.Context, db *postgres.DB, after Cursor, f postgres.FeedFilter) (frames []*frame, next Cursor, more bool, err error) {
	if s.run != uuid.Nil {
		events, err := db.Events(ctx, s.tenant, s.run, after.Seq, nil, pageSize)
		for _, e := range events {
			after.Seq = e.Seq
			frames = append(frames, s.encode(e, after))
		}
		return frames, after, len(events) == pageSize, err
	}
	events, next, err := db.Feed(ctx, s.tenant, f, after, pageSize)
	for _, e := range events {
		frames = append(frames, s.encode(e, Cursor{Epoch: next.Epoch, XID: e.XID, Run: e.RunID, Seq: e.Seq}))
	}
	return frames, next, !next.AtHead(), err
}

func (s source) encode(e run.Event, at Cursor) *frame {
	var b bytes.Buffer
	b.WriteString("id: " + s.format(at) + "\nevent: " + e.Type + "\ndata: ")
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// It is made of strings and of JSON that Postgres wrote, and fits on one
	// line; the encoder ends it, the second newline the frame.
	if err := enc.Encode(Envelope(e)); err != nil {
		b.WriteString("{}\n")
	}
	b.WriteByte('\n')
	return &frame{at: at, run: e.RunID, project: e.Project, typ: e.Type, bytes: b.Bytes()}
}
