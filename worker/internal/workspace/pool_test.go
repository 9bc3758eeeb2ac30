package workspace

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

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
		spaces, err := Open(snapshot.New(snapshot.Config{}), dir, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		take := func(runID uuid.UUID) *Space {
			space, err := spaces.Take(tenant, runID)
			if err != nil {
				t.Fatalf("Take() = %v, want a workspace", err)
			}
			if n := entries(t, space.Scratch); n != 0 {
				t.Errorf("Take() has %d entries of scratch, want none", n)
			}
			return space
		}
		give := func(runID uuid.UUID, space *Space) {
			spaces.Give(runID, space)
			if err := spaces.Evict(); err != nil {
				t.Errorf("Evict() = %v, want nil", err)
			}
		}

		first := take(runID)
		leave(t, first.Path)
		leave(t, first.Scratch)
		if first.Clear(); entries(t, first.Scratch) != 0 {
			t.Error("Clear() left something of scratch")
		}
		give(runID, first)
		again := take(runID)
		if again != first {
			t.Errorf("Take(the run's next step) = %s, want its workspace %s", again.dir, first.dir)
		}
		give(runID, again)
		give(uuid.New(), take(uuid.New())) // there is room for one only: the other goes
		if n := entries(t, spaces.dir.path); n != 1 {
			t.Errorf("%d workspaces are kept, want 1", n)
		}
		if err := spaces.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
}

// What cannot be cleared is not lent again, and one that cannot be removed does
// not keep the others.
func TestWorkspacesDropTheSpoiled(t *testing.T) {
	t.Parallel()
	usertest.Plain(t, func(dir string) {
		spaces, err := Open(snapshot.New(snapshot.Config{}), dir, 1, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var list []*Space
		runs := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
		for _, id := range runs {
			space, err := spaces.Take(uuid.New(), id)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, space)
		}
		stuck := list[0]
		if err := os.Chmod(stuck.dir, 0o555); err != nil {
			t.Fatal(err)
		}
		stuck.Clear()
		spaces.Give(runs[0], stuck)
		if err := spaces.Evict(); err == nil {
			t.Error("Evict(one that cannot be cleared) = nil, want why")
		}
		if space, err := spaces.Take(uuid.New(), runs[0]); err != nil || space == stuck {
			t.Errorf("Take() = %v, %v, want another workspace", space, err)
		}
		if _, err := os.Stat(stuck.dir); !os.IsNotExist(err) {
			t.Errorf("the spoiled workspace is still there (%v)", err)
		}

		for i, space := range list[1:] {
			spaces.Give(runs[1+i], space)
		}
		spaces.keep = 0
		locked := filepath.Join(dir, "locked")
		list[1].dir = filepath.Join(locked, "in")
		if err := errors.Join(os.MkdirAll(list[1].dir, 0o755), os.Chmod(locked, 0o555)); err != nil {
			t.Fatal(err)
		}
		last, err := spaces.Take(uuid.New(), uuid.New())
		if err != nil {
			t.Fatal(err)
		}
		spaces.Give(uuid.New(), last)
		if err := spaces.Evict(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("Evict() = %v, want what keeps a workspace from being removed", err)
		}
		for _, space := range []*Space{list[2], last} {
			if _, err := os.Stat(space.dir); !os.IsNotExist(err) {
				t.Errorf("%s was not removed (%v)", space.dir, err)
			}
		}
		if err := os.Chmod(locked, 0o755); err != nil { // so that the test can clean up
			t.Error(err)
		}
	})
}
