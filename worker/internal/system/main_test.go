package system_test

import (
	"os"
	"testing"

	"nofx.dev/worker/internal/host/hosttest"
)

func TestMain(m *testing.M) { os.Exit(hosttest.Main(m)) }
