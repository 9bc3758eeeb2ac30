package step

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
	"nofx.dev/worker/internal/workdir"
)

// idleLimit is how long a directory is kept for the next step of its run.
const idleLimit = 5 * time.Minute

// workspaces keeps the directories of runs on this worker. A step gets one to
// itself; the one that its run used last is the cheapest to bring up to date.
type workspaces struct {
	store *snapshot.Store
	dir   *workdir.Dir
	keep  int // idle ones at the most

	mu      sync.Mutex
	made    int
	idle    []idleWorkspace // oldest first
	spoiled []*workspace    // to be removed
}

type idleWorkspace struct {
	run   uuid.UUID
	space *workspace
	since time.Time
}

// workspace is a directory for one step: the workspace itself and, beside it,
// the scratch directory of its tool.
type workspace struct {
	*snapshot.Workspace
	dir     string
	path    string
	scratch string
	spoiled error // why no other step can have it
}

// newWorkspaces makes a directory for this worker's workspaces in parent, as
// [workdir.Open] does, and removes those of workers that have died.
func newWorkspaces(store *snapshot.Store, parent string, keep int, log *slog.Logger) (*workspaces, error) {
	dir, err := workdir.Open(parent)
	if err != nil {
		return nil, err
	}
	if err := dir.RemoveDead(); err != nil {
		log.Warn("workspaces of workers that have died stay", "error", err)
	}
	return &workspaces{store: store, dir: dir, keep: keep}, nil
}

// take lends a directory for a step of a run. Its scratch directory is empty.
func (w *workspaces) take(tenant, runID uuid.UUID) (*workspace, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.idle) - 1; i >= 0; i-- {
		if w.idle[i].run == runID {
			space := w.idle[i].space
			w.idle = append(w.idle[:i], w.idle[i+1:]...)
			return space, nil
		}
	}
	w.made++
	dir := filepath.Join(w.dir.Path, strconv.Itoa(w.made))
	space := &workspace{dir: dir, path: filepath.Join(dir, "workspace"), scratch: filepath.Join(dir, "scratch")}
	space.Workspace = w.store.Workspace(tenant, space.path)
	for _, d := range []string{space.path, space.scratch} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make a workspace: %w", err)
		}
	}
	return space, nil
}

// give takes a directory back. One that is spoiled is not lent again.
func (w *workspaces) give(runID uuid.UUID, space *workspace) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if space.spoiled == nil {
		w.idle = append(w.idle, idleWorkspace{runID, space, time.Now()})
	} else {
		w.spoiled = append(w.spoiled, space)
	}
}

// evict removes the directories that are spoiled, that were idle for long, or are
// more than are kept. It may take seconds, in which the caller should hold no lease.
func (w *workspaces) evict() error {
	w.mu.Lock()
	gone := w.spoiled
	w.spoiled = nil
	for len(w.idle) > 0 && (len(w.idle) > w.keep || time.Since(w.idle[0].since) > idleLimit) {
		gone = append(gone, w.idle[0].space)
		w.idle = w.idle[1:]
	}
	w.mu.Unlock()
	var err error
	for _, s := range gone {
		err = errors.Join(err, s.spoiled)
		if e := snapshot.RemoveAll(s.dir); e != nil {
			err = errors.Join(err, fmt.Errorf("remove a workspace: %w", e))
		}
	}
	return err
}

// close removes all of it.
func (w *workspaces) close() error { return w.dir.Close() }

// clear drops what a tool left in the scratch directory. One that cannot be
// emptied spoils the workspace.
func (s *workspace) clear() {
	err := snapshot.RemoveAll(s.scratch)
	if err == nil {
		err = os.Mkdir(s.scratch, 0o700)
	}
	if err != nil {
		s.spoiled = fmt.Errorf("empty a scratch directory: %w", err)
	}
}
