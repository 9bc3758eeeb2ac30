package host_test

import (
	"testing"

	"nofx.dev/worker/internal/host"
)

// A worker to which River cannot bring steps ends, and its services with it.
func TestRunEndsWithoutRiver(t *testing.T) {
	t.Parallel()
	b := setup(t)
	h := b.New(t, func(c *host.Config) { c.River.Close() })
	if err := h.Run(b.Ctx, b.Ctx); err == nil {
		t.Error("Run() without a database for River = nil, want why")
	}
}
