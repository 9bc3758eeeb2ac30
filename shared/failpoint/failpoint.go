// Package failpoint makes a process die, stop, panic, fail or dawdle at a named
// point, so that tests can aim at the windows between two durable steps.
//
// The windows and the grammar are those of the reliability rules: a point is
// armed by
//
//	NOFX_FAILPOINTS="after_put=kill:0.05,w2=sleep(8s)"
//
// and only in a process that runs with NOFX_TEST=1. Everywhere else [Hit] is one
// atomic load. Code calls Hit at its window and returns the error it gets; main
// calls [Init] once, before it serves.
package failpoint

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The points. Each but the last is also known by its window's number, w1 to w12
// in this order.
const (
	BeforeResponse = "before_response" // create committed, answer unsent
	AfterClaim     = "after_claim"     // claimed, not started
	MidExec        = "mid_exec"        // the step's work runs
	AfterEffect    = "after_effect"    // outside effect done, nothing recorded
	MidUpload      = "mid_upload"      // between parts of a multipart upload
	AfterPut       = "after_put"       // object stored, row not committed
	AfterCommit    = "after_commit"    // finish committed, the queue's client not told
	InDrain        = "in_drain"        // SIGTERM received, draining
	InSweep        = "in_sweep"        // between fence + 1 and enqueue
	InGC           = "in_gc"           // between listing and deleting objects
	InRotation     = "in_rotation"     // between two re-wrapped keys
	AfterPost      = "after_post"      // review posted, not recorded
	BeforeEffect   = "before_effect"   // the step's work runs, no outside effect yet
)

var names = []string{
	BeforeResponse, AfterClaim, MidExec, AfterEffect, MidUpload, AfterPut,
	AfterCommit, InDrain, InSweep, InGC, InRotation, AfterPost, BeforeEffect,
}

const windows = 12 // how many of names have a window's number

// ErrInjected is what [Hit] returns where the action is error.
var ErrInjected = errors.New("failpoint")

// armed is nil unless Init found points to arm, which is what makes Hit cheap.
var armed atomic.Pointer[set]

// Names returns the known points, in the order of their windows.
func Names() []string { return slices.Clone(names) }

// Hit does what is armed at the point: nothing, almost always. It returns
// ErrInjected (wrapped, naming the point) for the action error, and nil after a
// sleep or after a stopped process was continued. A name that is not in [Names]
// is an error as soon as anything is armed.
func Hit(name string) error {
	s := armed.Load()
	if s == nil {
		return nil
	}
	return s.hit(name)
}

// Init arms the points of NOFX_FAILPOINTS, as read by env, for the whole process;
// without any it disarms all. Unless NOFX_TEST is 1 the variable is ignored with
// one warning. An unknown name or action, or a broken probability or seed, is an
// error that lists what is known, and then nothing is armed. onHit, which may be
// nil, is called for each hit before its action, so that a kill is counted too.
func Init(env func(string) string, log *slog.Logger, onHit func(name string)) error {
	armed.Store(nil)
	spec := strings.TrimSpace(env("NOFX_FAILPOINTS"))
	if spec == "" {
		return nil
	}
	if env("NOFX_TEST") != "1" {
		log.Warn("failpoints ignored: NOFX_TEST is not 1")
		return nil
	}
	seed := rand.Uint64()
	if v := env("NOFX_FAILPOINT_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			return fmt.Errorf("NOFX_FAILPOINT_SEED %q: want an unsigned number", v)
		}
	}
	points, err := parse(spec)
	if err != nil {
		return fmt.Errorf("NOFX_FAILPOINTS: %w", err)
	}
	s := &set{log: log, onHit: onHit, points: points, dice: map[string]*rand.Rand{}}
	for name := range points {
		// Each point has its own dice, so that a run repeats whatever order
		// goroutines pass the other points in.
		h := fnv.New64a()
		h.Write([]byte(name))
		s.dice[name] = rand.New(rand.NewPCG(seed, h.Sum64()))
	}
	log.Warn("failpoints armed", "spec", spec, "seed", seed)
	armed.Store(s)
	return nil
}

// set is what is armed.
type set struct {
	log    *slog.Logger
	onHit  func(string)
	points map[string]action

	mu   sync.Mutex
	dice map[string]*rand.Rand
}

func (s *set) hit(name string) error {
	a, ok := s.points[name]
	if !ok {
		if !slices.Contains(names, name) {
			return fmt.Errorf("unknown failpoint %q: %w", name, ErrInjected)
		}
		return nil
	}
	if !s.roll(name, a.probability) {
		return nil
	}
	s.log.Warn("failpoint hit", "name", name, "action", a.verb)
	if s.onHit != nil {
		s.onHit(name)
	}
	switch a.verb {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal may land on another thread first: go no further
	case "stop":
		stopSelf()
	case "panic":
		panic("failpoint " + name)
	case "sleep":
		time.Sleep(a.sleep)
	case "error":
		return fmt.Errorf("%s: %w", name, ErrInjected)
	}
	return nil
}

func (s *set) roll(name string, probability float64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice[name].Float64() < probability
}
