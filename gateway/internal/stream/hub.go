package stream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
)

// pageSize is the number of events that one read of the database returns at the most.
const pageSize = 500

// readTimeout bounds one read of the tailer.
const readTimeout = 5 * time.Second

// searchWithin is the time that a reader with a filter looks for events before it sends its
// cursor.
const searchWithin = 300 * time.Millisecond

// readsAtOnce is the number of topics that are read at the same time. Requests need
// connections too.
const readsAtOnce = 4

// Config has the parts and limits of a hub.
type Config struct {
	Store   *postgres.DB
	Metrics *telemetry.Metrics
	Log     *slog.Logger
	Limits  Limits
}

// Hub serves the event streams of a process.
type Hub struct {
	cfg  Config
	done chan struct{}
	once sync.Once
	woke chan struct{} // a reader has joined: read now

	mu     sync.Mutex
	topics map[source]*topic
}

// NewHub returns a hub. Streams are live only while [Hub.Run] runs.
func NewHub(cfg Config) *Hub {
	cfg.Limits = cfg.Limits.withDefaults()
	return &Hub{cfg: cfg, done: make(chan struct{}), woke: make(chan struct{}, 1), topics: map[source]*topic{}}
}

// Shutdown ends every stream; each sends its reader the reason first.
func (h *Hub) Shutdown() { h.once.Do(func() { close(h.done) }) }

// Run reads new events for all streams until ctx is done.
func (h *Hub) Run(ctx context.Context) {
	pause, failing := h.cfg.Limits.PollIdle, false
	for {
		busy, err := h.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case busy: // be it that something else cannot be read
			pause = h.cfg.Limits.PollBusy
		case err != nil:
			pause = h.cfg.Limits.PollIdle
		default:
			pause = min(2*pause, h.cfg.Limits.PollIdle)
		}
		if was := failing; was != (err != nil) {
			failing = err != nil
			if failing {
				h.cfg.Log.WarnContext(ctx, "events cannot be read", "error", err)
			} else {
				h.cfg.Log.InfoContext(ctx, "events can be read again")
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-h.woke:
			pause = h.cfg.Limits.PollBusy
		}
		timer.Stop()
	}
}

// poll reads new events once: one query for the heads of all runs that are read, and then
// each topic by itself, with a deadline of its own and few at once, so that a topic that
// cannot be read does not hold up others. busy reports that there were events.
func (h *Hub) poll(ctx context.Context) (busy bool, err error) {
	var feeds []*topic
	var refs []postgres.RunRef
	runs := map[uuid.UUID]*topic{}
	for _, t := range h.all() {
		if t.src.run == uuid.Nil {
			feeds = append(feeds, t)
			continue
		}
		refs = append(refs, postgres.RunRef{Tenant: t.src.tenant, Run: t.src.run})
		runs[t.src.run] = t
	}
	var changed []*topic
	heads, headsErr := h.heads(ctx, refs)
	for id, seq := range heads {
		if t := runs[id]; seq > t.at().Seq {
			changed = append(changed, t)
		}
	}
	var some atomic.Bool
	var group errgroup.Group
	group.SetLimit(readsAtOnce)
	for _, t := range append(changed, feeds...) {
		group.Go(func() error {
			n, err := h.advance(ctx, t)
			if n > 0 {
				some.Store(true)
			}
			return err
		})
	}
	err = group.Wait()
	return some.Load(), errors.Join(headsErr, err)
}

// heads returns the seq of the last event of each run.
func (h *Hub) heads(ctx context.Context, refs []postgres.RunRef) (map[uuid.UUID]int64, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return h.cfg.Store.EventHeads(ctx, refs)
}

// advance reads the new events of a topic, at most a page, and returns their number.
func (h *Hub) advance(ctx context.Context, t *topic) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	frames, next, _, err := t.src.read(ctx, h.cfg.Store, t.at(), postgres.FeedFilter{})
	if err != nil {
		return 0, err
	}
	t.add(frames, next)
	return len(frames), nil
}

func (h *Hub) all() []*topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	topics := make([]*topic, 0, len(h.topics))
	for _, t := range h.topics {
		topics = append(topics, t)
	}
	return topics
}

// join returns the topic of a source to a reader that has read up to a cursor.
func (h *Hub) join(src source, at Cursor) *topic {
	h.mu.Lock()
	t, ok := h.topics[src]
	if !ok {
		t = newTopic(src, at)
		h.topics[src] = t
	}
	t.refs++
	h.mu.Unlock()
	select {
	case h.woke <- struct{}{}:
	default:
	}
	return t
}

// leave releases a topic, and forgets it with its last reader.
func (h *Hub) leave(t *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.refs--; t.refs == 0 {
		delete(h.topics, t.src)
	}
}
