package run_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// A public id reads back as itself, under its own prefix alone.
func TestPublicIDs(t *testing.T) {
	t.Parallel()
	prefixes := []run.Prefix{run.RunID, run.StepID, run.CheckpointID, run.GateID, run.ArtifactID, run.KeyID, run.TenantID}
	rapid.Check(t, func(rt *rapid.T) {
		id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
		prefix := rapid.SampledFrom(prefixes).Draw(rt, "prefix")
		s := prefix.Format(id)
		if got, err := prefix.Parse(s); err != nil || got != id {
			rt.Fatalf("Parse(%s) = %s, %v, want %s", s, got, err, id)
		}
		other := rapid.SampledFrom(prefixes).Draw(rt, "other")
		if _, err := other.Parse(s); (err == nil) != (other == prefix) {
			rt.Fatalf("%s.Parse(%s) = %v", other, s, err)
		}
	})
	id := run.NewID()
	for _, s := range []string{"", "run_", id.String(), "run_" + id.String(), strings.ToUpper(run.RunID.Format(id)), run.RunID.Format(id) + "0",
		"run_" + strings.Repeat("g", 32), " " + run.RunID.Format(id), "run_" + strings.Repeat("A", 32)} {
		if _, err := run.RunID.Parse(s); !errors.Is(err, fault.NotFound) {
			t.Errorf("Parse(%q) = %v, want not found", s, err)
		}
	}
	if a, b := run.NewID(), run.NewID(); a.Version() != 7 || a.String() >= b.String() {
		t.Errorf("NewID() = %s, %s, want versions 7 in order", a, b)
	}
}
