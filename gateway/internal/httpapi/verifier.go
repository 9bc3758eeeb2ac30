package httpapi

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// verifier has uploads verified: each once, however many ask for it at the same
// time, few at once, and fewer of one tenant, so that there is room for others. A
// verification that has begun goes on when those who asked have left: a connection
// that breaks on the way costs nothing, since who asks again finds it under way or
// done.
type verifier struct {
	room chan struct{} // one for each under way

	mu      sync.Mutex
	tenants map[uuid.UUID]*share
	running map[uuid.UUID]*verification // by artifact
	closed  bool
	under   sync.WaitGroup
}

// share is the room that one tenant may take of the whole.
type share struct {
	room  chan struct{}
	users int // that verify or wait; without any the share is forgotten
}

// verification is one under way. Its outcome is there when done is closed.
type verification struct {
	cancel   context.CancelFunc
	done     chan struct{}
	artifact run.Artifact
	err      error
}

func newVerifier() *verifier {
	return &verifier{
		room:    make(chan struct{}, verifyAtOnce),
		tenants: map[uuid.UUID]*share{}, running: map[uuid.UUID]*verification{},
	}
}

// do is what verify makes of the artifact, or what a verification under way does.
// It waits for its turn and for the outcome as long as ctx says; verify has the
// values of ctx and verifyTimeout. It runs when nothing else did since the caller
// looked last, or so it must find out.
func (v *verifier) do(ctx context.Context, tenant, artifact uuid.UUID, verify func(context.Context) (run.Artifact, error)) (run.Artifact, error) {
	v.mu.Lock()
	f := v.running[artifact]
	v.mu.Unlock()
	if f == nil {
		release, err := v.turn(ctx, tenant)
		if err != nil {
			return run.Artifact{}, err
		}
		if f, err = v.begin(ctx, artifact, verify, release); err != nil {
			return run.Artifact{}, err
		}
	}
	select {
	case <-f.done:
		return f.artifact, f.err
	case <-ctx.Done():
		return run.Artifact{}, ctx.Err()
	}
}

// turn waits for room of the tenant's and then of all. release gives both back.
func (v *verifier) turn(ctx context.Context, tenant uuid.UUID) (release func(), err error) {
	v.mu.Lock()
	own := v.tenants[tenant]
	if own == nil {
		own = &share{room: make(chan struct{}, verifyOfTenant)}
		v.tenants[tenant] = own
	}
	own.users++
	v.mu.Unlock()
	var taken []chan struct{}
	release = func() {
		for _, room := range taken {
			<-room
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(v.tenants, tenant)
		}
	}
	for _, room := range []chan struct{}{own.room, v.room} {
		select {
		case room <- struct{}{}:
			taken = append(taken, room)
		case <-ctx.Done():
			release()
			return nil, ctx.Err()
		}
	}
	return release, nil
}

// begin starts a verification, or is the one that another began while this waited
// for its turn.
func (v *verifier) begin(ctx context.Context, artifact uuid.UUID, verify func(context.Context) (run.Artifact, error), release func()) (*verification, error) {
	v.mu.Lock()
	f := v.running[artifact]
	if f != nil || v.closed {
		v.mu.Unlock()
		release()
		if f == nil {
			return nil, fault.New(fault.Unavailable, "unavailable", "this gateway is stopping")
		}
		return f, nil
	}
	defer v.mu.Unlock()
	// It survives its request on purpose; close ends it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyTimeout)
	f = &verification{cancel: cancel, done: make(chan struct{})}
	v.running[artifact] = f
	v.under.Go(func() {
		defer release()
		defer cancel()
		defer func() {
			if p := recover(); p != nil { // nobody above would
				f.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			v.mu.Lock()
			delete(v.running, artifact)
			v.mu.Unlock()
			close(f.done)
		}()
		f.artifact, f.err = verify(ctx)
	})
	return f, nil
}

// close lets nothing begin any more, ends what is under way and waits for it.
func (v *verifier) close() {
	v.mu.Lock()
	v.closed = true
	for _, f := range v.running {
		f.cancel()
	}
	v.mu.Unlock()
	v.under.Wait()
}
