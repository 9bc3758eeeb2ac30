package main

import (
	"os"
	"strings"
	"testing"
)

// full opens the device on which nothing can be written.
func full(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		f, err = os.Open(os.DevNull) // for reading only, where there is no such device
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOutputThatIsNotWrittenIsAnError(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, script())
	run := id("run", 1)
	for _, line := range []string{
		"run list", "run list --json", "run show " + run, "run timeline " + run, "logs " + run + "/build", "logs " + id("step", 1) + " --list",
		"gate list", "queue list", "worker list", "key list", "key revoke " + id("key", 1), "checkpoint list " + run,
		"whoami", "whoami --json", "--help", "--version", "run", "completion bash",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			c := newCLI(t, server.URL)
			c.app.out = full(t)
			if code := execute(t.Context(), c.app, strings.Fields(line)); code != exitFailed || !strings.Contains(c.errOut.String(), "output could not be written") {
				t.Errorf("nofx %s > /dev/full = exit %d, %q; want %d and why", line, code, &c.errOut, exitFailed)
			}
		})
	}
}

// The secret of a key that was not written is lost, so the key is to be revoked.
func TestKeyWhoseSecretIsNotWritten(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, script())
	for _, flags := range []string{"", " --json"} {
		c := newCLI(t, server.URL)
		c.app.out = full(t)
		code := execute(t.Context(), c.app, strings.Fields("key create ci --scope runs:write"+flags))
		if said := c.errOut.String(); code != exitFailed || !strings.Contains(said, "was created") || !strings.Contains(said, "nofx key revoke "+id("key", 1)) {
			t.Errorf("key create%s > /dev/full = exit %d, %q; want %d, that it was created, and how to revoke it", flags, code, said, exitFailed)
		}
	}
}
