package host_test

import (
	"os"
	"testing"

	"nofx.dev/worker/internal/host/hosttest"
)

func TestMain(m *testing.M) { os.Exit(hosttest.Main(m)) }

// bundle is one test's worker, and what it works on.
type bundle struct{ hosttest.Bundle }

func setup(t *testing.T) *bundle {
	t.Helper()
	return &bundle{*hosttest.Setup(t)}
}
