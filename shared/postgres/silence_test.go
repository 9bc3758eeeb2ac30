package postgres_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// A server that is gone without a word, as after a failover, costs its callers no
// more than their patience, also those who have no deadline; and when another one
// is there, the next call reaches it.
func TestSilence(t *testing.T) {
	t.Parallel()
	tests := map[string]func(context.Context, *postgres.DB, uuid.UUID) error{
		"in a transaction": func(ctx context.Context, db *postgres.DB, tenant uuid.UUID) error {
			_, err := db.ClaimSteps(ctx, []postgres.Wake{{Job: wakeUp(tenant, uuid.New(), 1), Pre: noCheckpoint}}, postgres.Worker{ID: "w1", PID: 1}, ttl)
			return err
		},
		"across tenants": func(ctx context.Context, db *postgres.DB, _ uuid.UUID) error {
			_, err := db.Due(ctx, postgres.DueLease, postgres.SweepRules{LeaseRules: postgres.LeaseRules{TTL: ttl}, Lost: ttl, Limit: 1}, nil)
			return err
		},
		"ready": func(ctx context.Context, db *postgres.DB, _ uuid.UUID) error { return db.Ready(ctx) },
	}
	for name, call := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			w := newWire(t, s.AppURL)
			db := s.Open(t, postgres.Config{URL: w.url, Patience: 2 * time.Second})
			t.Cleanup(w.close)
			ctx := context.WithoutCancel(s.ctx)
			if err := call(ctx, db, s.tenant); err != nil {
				t.Fatalf("before the silence: %v, want nil", err)
			}
			w.silence()
			answer := make(chan error, 1)
			go func() { answer <- call(ctx, db, s.tenant) }()
			select {
			case err := <-answer:
				wantKind(t, "in silence", err, fault.Unavailable, "unavailable")
				if !postgres.Silent(err) {
					t.Errorf("Silent(%v) = false, want true", err)
				}
			case <-time.After(2 * time.Minute):
				w.close()
				t.Fatalf("the call still waits, want it to end after 2 s; then %v", <-answer)
			}
			if err := call(ctx, db, s.tenant); err != nil {
				t.Errorf("after the silence: %v, want nil", err)
			}
		})
	}
}

// A server that lets nobody in, as while it fails over, is as good as none: it may let
// us in again, and until then it answers no part of what was asked either.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(*url.URL){
		"a role that may not log in": func(u *url.URL) { u.User = url.UserPassword("nofx_owner", "x") },
		"a wrong password":           func(u *url.URL) { u.User = url.UserPassword("pgtest_both", "wrong") },
		"no such database":           func(u *url.URL) { u.Path = "/nothing" },
		"nobody listens":             func(u *url.URL) { u.Host = "127.0.0.1:1" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			u, err := url.Parse(s.AppURL)
			if err != nil {
				t.Fatal(err)
			}
			edit(u)
			db := s.Open(t, postgres.Config{URL: u.String()})
			_, inTx := db.ClaimSteps(s.ctx, []postgres.Wake{{Job: wakeUp(s.tenant, uuid.New(), 1), Pre: noCheckpoint}}, postgres.Worker{ID: "w1", PID: 1}, ttl)
			_, _, across := db.Heartbeat(s.ctx, nil, calm)
			for what, err := range map[string]error{"ClaimSteps": inTx, "Heartbeat": across} {
				wantKind(t, what+"()", err, fault.Unavailable, "unavailable")
				if !postgres.Silent(err) {
					t.Errorf("Silent(%v) = false, want true", err)
				}
			}
		})
	}
}

// wire is the way to a server.
type wire struct {
	url    string
	listen net.Listener

	mu    sync.Mutex
	conns []net.Conn
	mute  []chan struct{}
}

func newWire(t *testing.T, dsn string) *wire {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	w := &wire{}
	if w.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	u.Host = w.listen.Addr().String()
	w.url = u.String()
	go func() {
		for {
			client, err := w.listen.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			mute := make(chan struct{})
			w.mu.Lock()
			w.conns, w.mute = append(w.conns, client, up), append(w.mute, mute)
			w.mu.Unlock()
			go carry(up, client, mute)
			go carry(client, up, mute)
		}
	}()
	return w
}

// carry takes what comes from one end to the other until it is mute; then neither
// hears of the other again, not even that it is gone.
func carry(to, from net.Conn, mute <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-mute:
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		if n > 0 {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

// silence mutes the connections that there are; those to come are heard.
func (w *wire) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.mute {
		close(m)
	}
	w.mute = nil
}

func (w *wire) close() {
	_ = w.listen.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
}
