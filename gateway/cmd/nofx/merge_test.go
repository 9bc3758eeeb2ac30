package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

// TestMergeResolveFile decides conflicts by files: texts go in the request, all that a text
// in JSON cannot hold goes as an artifact with the same bytes, once for any number of
// conflicts.
func TestMergeResolveFile(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("line\n", maxInline/5)
	for name, tt := range map[string]struct {
		content  string
		places   string
		artifact bool
	}{
		"text":        {"a\n\u00e9 \u2028<b>", "f", false},
		"empty":       {"", "f", false},
		"mark":        {"\ufeffa", "f", false},
		"latin 1":     {"caf\xe9\n", "f g", true},
		"half a rune": {"\xed\xa0\x80", "f", true},
		"NUL":         {"a\x00b", "f", true},
		"replacement": {"a\ufffdb", "f", false},
		"large":       {long, "f", true},
		"large twice": {long[:len(long)/2], "f g h", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, url := newBucket(t, "", 0)
			made := api.Artifact{ID: id("art", 1), Name: "given", MediaType: "text/plain", SizeBytes: int64(len(tt.content)), Sha256: sumOf(tt.content), CreatedAt: now}
			answers, uploads := script(), 0
			var got api.MergeResolutions
			answers["createArtifact"] = func(w http.ResponseWriter, r *http.Request) {
				uploads++
				answer(http.StatusCreated, api.CreatedArtifact{Artifact: made, Upload: &api.Upload{
					Method: api.UploadMethodPUT, URL: url, ExpiresAt: now, Headers: map[string]string{"Content-Length": strconv.Itoa(len(tt.content))}}})(w, r)
			}
			answers["completeArtifact"] = answer(http.StatusOK, api.ArtifactAnswer{Artifact: made})
			answers["resolveMerge"] = func(w http.ResponseWriter, r *http.Request) {
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
					t.Error(err)
				}
				answer(http.StatusOK, api.MergeAnswer{Merge: conflictedMerge()})(w, r)
			}
			_, server := newGateway(t, answers)
			c := newCLI(t, server.URL)
			file := filepath.Join(c.dir, "given")
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"merge", "resolve", id("mrg", 1), "--file", file}, strings.Fields(tt.places)...)
			if exit := execute(t.Context(), c.app, args); exit != exitOK {
				t.Fatalf("merge resolve = exit %d: %s", exit, &c.errOut)
			}
			if places := strings.Fields(tt.places); len(got.Resolutions) != len(places) {
				t.Fatalf("resolutions = %d, want one for each of %v", len(got.Resolutions), places)
			}
			for _, r := range got.Resolutions {
				content, want := b.content, api.MergeTakeArtifact
				if !tt.artifact {
					want = api.MergeTakeValue
					if err := json.Unmarshal(r.Value, &content); err != nil {
						t.Error(err)
					}
				}
				if *r.Take != want || content != tt.content || tt.artifact != (cmp.Diff(&made.ID, r.ArtifactID) == "") {
					t.Errorf("resolution of %s = take %s of %.20q, artifact %v; want %s of %.20q", *r.Path, *r.Take, content, r.ArtifactID, want, tt.content)
				}
			}
			if uploads > 1 || tt.artifact != (uploads == 1) {
				t.Errorf("uploads = %d, want one at most, and none for text", uploads)
			}
		})
	}
}

// TestAmbiguousBase shows the candidates, and the flag that names one of them.
func TestAmbiguousBase(t *testing.T) {
	t.Parallel()
	answers := script()
	answers["startMerge"] = func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusConflict, api.Problem{Code: api.ProblemCodeAmbiguousBase, Bases: []string{id("ckpt", 3), id("ckpt", 4)},
			Detail: "the two runs have 2 nearest common checkpoints; name one of them as base_checkpoint_id"})
	}
	_, server := newGateway(t, answers)
	c := newCLI(t, server.URL)
	golden(t, "merge-ambiguous-base", c.transcript(t.Context(), "merge", "start", id("run", 1), id("run", 2)))
}
