// Package sandboxtest gives tests sandboxes. They need the go command, and a working
// directory inside the workspace.
package sandboxtest

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"nofx.dev/worker/internal/sandbox"
)

// Helper returns the path of the helper's program, which the go command builds and keeps in
// its cache.
var Helper = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "tool", "-n", sandbox.HelperName).Output()
	return strings.TrimSpace(string(out)), err
})

// Open returns a sandbox of exactly the tier that cfg has as its highest. The test fails when
// the machine does not offer it.
func Open(t testing.TB, cfg sandbox.Config) *sandbox.Sandbox {
	t.Helper()
	var err error
	if cfg.Helper, err = Helper(); err != nil {
		t.Fatalf("build the sandbox's helper: %v", err)
	}
	s, err := sandbox.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.Tier() != cfg.MaxTier {
		t.Fatalf("the tier that holds = %d, want %d: %v", s.Tier(), cfg.MaxTier, s.Higher())
	}
	return s
}

// Bare returns a sandbox of tier 0, for tests of other things than isolation.
var Bare = sync.OnceValue(func() *sandbox.Sandbox {
	helper, err := Helper()
	if err != nil {
		panic("build the sandbox's helper: " + err.Error())
	}
	s, err := sandbox.Open(context.Background(), sandbox.Config{Helper: helper})
	if err != nil {
		panic(err)
	}
	return s
})
