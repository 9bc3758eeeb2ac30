package step

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/snapshot"
	"nofx.dev/worker/internal/usertest"
)

// leave makes in dir what the go command does: a module cache that may not be
// written to.
func leave(t *testing.T, dir string) {
	t.Helper()
	cache := filepath.Join(dir, "home", "go", "mod")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(cache, "go.mod"), []byte("module x"), 0o444); err != nil {
		t.Error(err)
	}
	for _, d := range []string{cache, filepath.Dir(cache)} {
		if err := os.Chmod(d, 0o555); err != nil {
			t.Error(err)
		}
	}
}

func entries(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	return len(list)
}

// Directories that may not be written to, as the go command leaves its module
// cache, stop neither the run's next step nor the worker.
func TestWorkspacesOfReadOnlyDirectories(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		tenant, runID := uuid.New(), uuid.New()
		spaces, err := newWorkspaces(snapshot.New(snapshot.Config{}), dir, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		take := func(runID uuid.UUID) *workspace {
			space, err := spaces.take(tenant, runID)
			if err != nil {
				t.Fatalf("take() = %v, want a workspace", err)
			}
			if n := entries(t, space.scratch); n != 0 {
				t.Errorf("take() has %d entries of scratch, want none", n)
			}
			return space
		}
		give := func(runID uuid.UUID, space *workspace) {
			spaces.give(runID, space)
			if err := spaces.evict(); err != nil {
				t.Errorf("evict() = %v, want nil", err)
			}
		}

		first := take(runID)
		leave(t, first.path)
		leave(t, first.scratch)
		if first.clear(); entries(t, first.scratch) != 0 {
			t.Error("clear() left something of scratch")
		}
		give(runID, first)
		again := take(runID)
		if again != first {
			t.Errorf("take(the run's next step) = %s, want its workspace %s", again.dir, first.dir)
		}
		give(runID, again)
		give(uuid.New(), take(uuid.New())) // there is room for one only: the other goes
		if n := entries(t, spaces.dir.Path); n != 1 {
			t.Errorf("%d workspaces are kept, want 1", n)
		}
		if err := spaces.close(); err != nil {
			t.Errorf("close() = %v, want nil", err)
		}
	})
}

// What cannot be cleared is not lent again, and one that cannot be removed does
// not keep the others.
func TestWorkspacesDropTheSpoiled(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		spaces, err := newWorkspaces(snapshot.New(snapshot.Config{}), dir, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var list []*workspace
		runs := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
		for _, id := range runs {
			space, err := spaces.take(uuid.New(), id)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, space)
		}
		stuck := list[0]
		if err := os.Chmod(stuck.dir, 0o555); err != nil {
			t.Fatal(err)
		}
		stuck.clear()
		spaces.give(runs[0], stuck)
		if err := spaces.evict(); err == nil {
			t.Error("evict(one that cannot be cleared) = nil, want why")
		}
		if space, err := spaces.take(uuid.New(), runs[0]); err != nil || space == stuck {
			t.Errorf("take() = %v, %v, want another workspace", space, err)
		}
		if _, err := os.Stat(stuck.dir); !os.IsNotExist(err) {
			t.Errorf("the spoiled workspace is still there (%v)", err)
		}

		for i, space := range list[1:] {
			spaces.give(runs[1+i], space)
		}
		spaces.keep = 0
		locked := filepath.Join(dir, "locked")
		list[1].dir = filepath.Join(locked, "in")
		if err := errors.Join(os.MkdirAll(list[1].dir, 0o755), os.Chmod(locked, 0o555)); err != nil {
			t.Fatal(err)
		}
		last, err := spaces.take(uuid.New(), uuid.New())
		if err != nil {
			t.Fatal(err)
		}
		spaces.give(uuid.New(), last)
		if err := spaces.evict(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("evict() = %v, want what keeps a workspace from being removed", err)
		}
		for _, space := range []*workspace{list[2], last} {
			if _, err := os.Stat(space.dir); !os.IsNotExist(err) {
				t.Errorf("%s was not removed (%v)", space.dir, err)
			}
		}
		if err := os.Chmod(locked, 0o755); err != nil { // so that the test can clean up
			t.Error(err)
		}
	})
}

// A step that has ended takes no room beside its workspace.
func TestScratchEndsWithItsStep(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dir := t.TempDir()
	b.worker(t, func(c *Config) { c.WorkspaceDir = dir })
	b.until(t, b.create(t, script("fill", `echo x > "$HOME/x"; echo y > "$TMPDIR/y"`)).ID, run.Succeeded)
	spaces, err := filepath.Glob(filepath.Join(dir, "worker-*", "*", "scratch"))
	if err != nil || len(spaces) != 1 {
		t.Fatalf("the worker has scratch directories %v (%v), want one", spaces, err)
	}
	if n := entries(t, spaces[0]); n != 0 {
		t.Errorf("after the step its scratch directory has %d entries, want none", n)
	}
}
