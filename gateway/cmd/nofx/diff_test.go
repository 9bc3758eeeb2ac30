package main

import (
	"compress/gzip"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"nofx.dev/gateway/api"
)

// testPatch is what git apply takes of testDiff.
const testPatch = "# ckpt_1 to ckpt_2: 2 files changed\ndiff --git a/a.go b/a.go\n--- a/a.go\n+++ b/a.go\n@@ -1 +1 @@\n-\x1b[2Jold\n+new\n"

// testDiff returns a diff with something of each kind, and with what would steer a terminal.
func testDiff() api.Diff {
	content := func(path, mode string) *api.DiffContent {
		return &api.DiffContent{Path: optional(path), Sha256: digest(1)[7:], Size: 4, Mode: mode}
	}
	return api.Diff{
		V: 1, From: api.DiffSide{Checkpoint: ptr(id("ckpt", 1)), Digest: ptr(digest(1))}, To: api.DiffSide{Checkpoint: ptr(id("ckpt", 2)), Digest: ptr(digest(2))},
		Summary: api.DiffSummary{Lines: api.DiffLines{Added: 1, Deleted: 1}, StateOps: 3, Text: "3 files changed; vars.retries 3 to 5; unit failed"},
		State: []api.DiffOperation{
			{Op: api.DiffOperationOpReplace, Path: "/vars/retries", Value: json.Number("12345678901234567890"), Old: 3}, {Op: api.DiffOperationOpAdd, Path: "/vars/new", Value: map[string]any{"a": "\x1b[31m"}},
			{Op: api.DiffOperationOpRemove, Path: "/vars/old", Old: "x"},
		},
		Steps: []api.DiffStep{{Name: "unit", From: ptr("running"), To: ptr("failed")}}, Gates: []api.DiffGate{{Name: "unit", Step: "unit", Verdict: "failed"}},
		Files: []api.DiffFile{
			{Path: "a.go", Status: api.DiffFileStatusModified, Kind: api.DiffFileKindText, From: content("", "100644"), To: content("", "100755"),
				Lines: &api.DiffLines{Added: 1, Deleted: 1}, Unified: ptr("@@ -1 +1 @@\n-\x1b[2Jold\n+new\n\\ No newline at end of file\n")},
			{Path: "bin\x1b[2J", Status: api.DiffFileStatusAdded, Kind: api.DiffFileKindBinary, To: content("", "100644")},
			{Path: "to", Status: api.DiffFileStatusRenamed, Kind: api.DiffFileKindText, From: content("from", "100644"), To: content("", "100644")},
		},
		Sessions: []api.DiffSession{}, Truncated: true, Next: ptr("5000"),
	}
}

func diffAnswers() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("format") == "unified" {
			text(testPatch, "text/x-diff")(w, r)
			return
		}
		d := testDiff()
		answer(http.StatusOK, api.CheckpointDiff{Diff: &d, SizeBytes: ptr(int64(1000))})(w, r)
	}
}

// TestDiffCommands shows what people and scripts see of a diff.
func TestDiffCommands(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, script())
	for name, flags := range map[string]string{
		"diff": "--against parent", "diff-stat": "--stat --path src", "diff-unified": "--unified", "diff-json": "--json", "diff-both": "--json --unified", "diff-help": "--help",
	} {
		line := "checkpoint diff " + id("run", 1) + " " + id("ckpt", 1) + " " + flags
		golden(t, name, newCLI(t, server.URL).transcript(t.Context(), strings.Fields(line)...))
	}
}

// On a terminal a diff has colours, unless they are not wanted, and nothing else of what
// it shows is obeyed.
func TestDiffOnATerminal(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, script())
	for _, format := range []string{"", " --unified"} {
		for _, noColour := range []string{"", "1"} {
			c := newCLI(t, server.URL)
			c.app.terminal = true
			getenv := c.app.getenv
			c.app.getenv = func(name string) string {
				if name == "NO_COLOR" {
					return noColour
				}
				return getenv(name)
			}
			if code := execute(t.Context(), c.app, strings.Fields("checkpoint diff "+id("run", 1)+" "+id("ckpt", 1)+format)); code != exitOK {
				t.Fatalf("diff%s = %d, want 0: %s", format, code, c.errOut.String())
			}
			out := c.out.String()
			if got := strings.Contains(out, "\x1b[32m+new\x1b[0m"); got != (noColour == "") {
				t.Errorf("diff%s with NO_COLOR=%q is coloured: %t\n%q", format, noColour, got, out)
			}
			if strings.Contains(out, "\x1b[2J") || !strings.Contains(out, "^[[2Jold") {
				t.Errorf("diff%s steers the terminal: %q", format, out)
			}
		}
	}
}

// The command waits while a worker computes, and reads a large diff where it is.
func TestDiffThatTakesLong(t *testing.T) {
	t.Parallel()
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the storage is shown the key")
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_ = json.NewEncoder(z).Encode(testDiff())
		_ = z.Close()
	}))
	t.Cleanup(storage.Close)
	var asked atomic.Int64
	s := script()
	s["diffCheckpoint"] = func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) < 3 {
			w.Header().Set("Location", "/api/runs/"+id("run", 9))
			w.Header().Set("Retry-After", "1")
			answer(http.StatusAccepted, api.CheckpointDiff{DiffRunID: ptr(id("run", 9))})(w, r)
			return
		}
		answer(http.StatusOK, api.CheckpointDiff{URL: ptr(storage.URL + "/diff"), ExpiresAt: &now, SizeBytes: ptr(int64(1 << 20))})(w, r)
	}
	_, server := newGateway(t, s)
	c := newCLI(t, server.URL)
	if code := execute(t.Context(), c.app, strings.Fields("checkpoint diff "+id("run", 1)+" "+id("ckpt", 1)+" --stat")); code != exitOK {
		t.Fatalf("diff = %d, want 0: %s", code, c.errOut.String())
	}
	if want := "a worker is computing the diff; see nofx run show " + id("run", 9); strings.Count(c.errOut.String(), want) != 1 || asked.Load() != 3 {
		t.Errorf("said after %d requests: %q, want once %q", asked.Load(), c.errOut.String(), want)
	}
	if !strings.Contains(c.out.String(), "~ /vars/retries 3 to 12345678901234567890") {
		t.Errorf("diff = %q, want the stored one, with all digits", c.out.String())
	}
}
