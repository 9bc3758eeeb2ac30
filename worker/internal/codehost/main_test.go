package codehost_test

import (
	"os"
	"testing"

	"nofx.dev/worker/internal/codehost/codehosttest"
)

func TestMain(m *testing.M) {
	codehosttest.ServeDouble()
	os.Exit(m.Run())
}
