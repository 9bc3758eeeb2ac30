package main

import (
	"context"
	"strings"
	"testing"
)

// TestPurgeAsks deletes nothing on a terminal before somebody has confirmed it.
func TestPurgeAsks(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("ab12", 16)
	for typed, confirmed := range map[string]bool{
		"y": true, "Y": true, "yes": true, "ab12": true, "AB12AB": true, digest: true,
		"": false, "n": false, "ab1": false, "ab13": false, digest + "a": false, "sha256:ab12": false,
	} {
		g, server := newGateway(t, script())
		c := newCLI(t, server.URL)
		var asked string
		c.ask = func(_ context.Context, question string) (string, error) {
			asked = question
			return typed, nil
		}
		want, requests := exitFailed, 0
		if confirmed {
			want, requests = exitOK, 1
		}
		got := execute(t.Context(), c.app, []string{"blob", "purge", "sha256:" + digest, "--reason", "leaked"})
		if got != want || len(g.requests()) != requests {
			t.Errorf("blob purge, confirmed by %q = exit %d after %d requests, want %d after %d: %s", typed, got, len(g.requests()), want, requests, &c.errOut)
		}
		if !strings.Contains(asked, digest) {
			t.Errorf("it asked %q, want the digest in it", asked)
		}
		if !confirmed && !strings.Contains(c.errOut.String(), "nothing was deleted") {
			t.Errorf("blob purge, not confirmed, says %q, want that nothing was deleted", &c.errOut)
		}
	}
}

// TestPurgeAskedAndStopped deletes nothing when Ctrl-C is the answer.
func TestPurgeAskedAndStopped(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, script())
	c := newCLI(t, server.URL)
	ctx, cancel := context.WithCancel(t.Context())
	c.ask = func(ctx context.Context, _ string) (string, error) {
		cancel()
		return "", ctx.Err()
	}
	got := execute(ctx, c.app, []string{"blob", "purge", strings.Repeat("ab", 32), "--reason", "leaked"})
	if got != exitStopped || len(g.requests()) != 0 {
		t.Errorf("blob purge, stopped = exit %d after %d requests, want %d after none", got, len(g.requests()), exitStopped)
	}
}
