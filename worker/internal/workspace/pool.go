// Package workspace lends directories to attempts.
//
// A step gets a directory to itself, and the one that its run used last is the cheapest
// to bring up to date: so a [Pool] keeps some of them for the next step of their runs.
// Each is a [Space]: the workspace, which package snapshot saves and restores, and the
// scratch directory of the step's tool beside it.
//
// Workers of one machine share a parent: the directory that NOFX_WORKSPACE_DIR names,
// which may be the mount point of a volume, or one of their user below the system's
// temporary directory. A marker in it says that workers may delete there; without one
// it must be empty, so that a wrong path costs nobody a file.
//
// A worker holds a lock beside its directory as long as it lives. Where a worker was
// killed the lock is free, and the next worker that starts removes what it left (dir.go).
package workspace

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/worker/internal/snapshot"
)

// idleLimit is how long a directory is kept for the next step of its run.
const idleLimit = 5 * time.Minute

// Pool keeps the directories of runs on this worker. It is safe for concurrent use.
type Pool struct {
	store *snapshot.Store
	dir   *ownDir
	keep  int // idle ones at the most

	mu      sync.Mutex
	made    int
	idle    []idleSpace // oldest first
	spoiled []*Space    // to be removed
}

type idleSpace struct {
	run   uuid.UUID
	space *Space
	since time.Time
}

// Space is a directory for one step: the workspace itself and, beside it, the scratch
// directory of its tool. It is for one goroutine at a time.
type Space struct {
	*snapshot.Workspace
	Path    string
	Scratch string
	dir     string // with both of them
	spoiled error  // why no other step can have it
}

// Open makes a directory for this worker's workspaces in parent, which is made unless it
// is there; an empty parent is the default one. It removes the directories of workers
// that have died. At most keep idle workspaces are kept.
func Open(store *snapshot.Store, parent string, keep int, log *slog.Logger) (*Pool, error) {
	dir, err := openDir(parent)
	if err != nil {
		return nil, err
	}
	if err := dir.removeDead(); err != nil {
		log.Warn("workspaces of workers that have died stay", "error", err)
	}
	return &Pool{store: store, dir: dir, keep: keep}, nil
}

// Take lends a directory for a step of a run. Its scratch directory is empty.
func (p *Pool) Take(tenant, runID uuid.UUID) (*Space, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		if p.idle[i].run == runID {
			space := p.idle[i].space
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			return space, nil
		}
	}
	p.made++
	dir := filepath.Join(p.dir.path, strconv.Itoa(p.made))
	space := &Space{dir: dir, Path: filepath.Join(dir, "workspace"), Scratch: filepath.Join(dir, "scratch")}
	space.Workspace = p.store.Workspace(tenant, space.Path)
	for _, d := range []string{space.Path, space.Scratch} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make a workspace: %w", err)
		}
	}
	return space, nil
}

// Give takes a directory back. One that is spoiled is not lent again.
func (p *Pool) Give(runID uuid.UUID, space *Space) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if space.spoiled == nil {
		p.idle = append(p.idle, idleSpace{runID, space, time.Now()})
	} else {
		p.spoiled = append(p.spoiled, space)
	}
}

// Evict removes the directories that are spoiled, that were idle for long, or are
// more than are kept. It may take seconds, in which the caller should hold no lease.
func (p *Pool) Evict() error {
	p.mu.Lock()
	gone := p.spoiled
	p.spoiled = nil
	for len(p.idle) > 0 && (len(p.idle) > p.keep || time.Since(p.idle[0].since) > idleLimit) {
		gone = append(gone, p.idle[0].space)
		p.idle = p.idle[1:]
	}
	p.mu.Unlock()
	var err error
	for _, s := range gone {
		err = errors.Join(err, s.spoiled)
		if e := snapshot.RemoveAll(s.dir); e != nil {
			err = errors.Join(err, fmt.Errorf("remove a workspace: %w", e))
		}
	}
	return err
}

// Close removes all of them.
func (p *Pool) Close() error { return p.dir.close() }

// Clear drops what a tool left in the scratch directory. One that cannot be
// emptied spoils the workspace.
func (s *Space) Clear() {
	err := snapshot.RemoveAll(s.Scratch)
	if err == nil {
		err = os.Mkdir(s.Scratch, 0o700)
	}
	if err != nil {
		s.spoiled = fmt.Errorf("empty a scratch directory: %w", err)
	}
}

// Spoiled reports whether the directory is to be removed instead of being lent again.
func (s *Space) Spoiled() bool { return s.spoiled != nil }
