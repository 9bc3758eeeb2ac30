package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// flawed returns a diff with one defect, in a line that n makes a line of its own.
func flawed(n int) string {
	return fmt.Sprintf("diff --git a/s%[1]d.go b/s%[1]d.go\n--- a/s%[1]d.go\n+++ b/s%[1]d.go\n@@ -1,2 +1,5 @@\n package s\n+func f(db *sql.DB, name string) error {\n"+
		"+\t_, err := db.Exec(\"DELETE FROM t%[1]d WHERE name = '\" + name + \"'\")\n+\treturn err }\n \n", n)
}

func (s *system) reviewDiff(t *testing.T, diff string) api.CreatedReview {
	t.Helper()
	return decode[api.CreatedReview](t, s.do(t, http.StatusAccepted, http.MethodPost, "/api/reviews", map[string]any{"provider": "diff", "diff": diff}))
}

// wantValid fails unless a document is valid by the JSON Schema in a file.
func wantValid(t *testing.T, file string, document []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	schema, err := c.Compile(file)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err == nil {
		err = schema.Validate(doc)
	}
	if err != nil {
		t.Errorf("%s: %v, want a valid document: %s", file, err, document)
	}
}

// TestReview reviews a diff as a client does: the verdict, the findings and the documents by
// signed URL agree, and it is one trace.
func TestReview(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 1})
	created := s.reviewDiff(t, flawed(1))
	v := decode[api.ReviewAnswer](t, s.do(t, http.StatusOK, http.MethodGet, "/api/reviews/"+created.Review.ID+"?wait_s=25", nil)).Review
	for v.FinishedAt == nil {
		v = decode[api.ReviewAnswer](t, s.do(t, http.StatusOK, http.MethodGet, "/api/reviews/"+created.Review.ID+"?wait_s=25", nil)).Review
	}
	if v.Verdict == nil || *v.Verdict != "failed" || v.TraceID != created.Run.TraceID {
		t.Errorf("review = %+v, want it failed in trace %s", v, created.Run.TraceID)
	}
	found := items[api.Finding](t, s.client, "/api/reviews/"+v.ID+"/findings", "10")
	if len(found) != 1 || found[0].Path != "s1.go" {
		t.Fatalf("findings = %+v, want one in s1.go", found)
	}
	for format, schema := range map[string]string{"json": "review.schema.json", "sarif": "testdata/schema/sarif-schema-2.1.0.json", "rdjson": "testdata/schema/rdjson.json"} {
		a := decode[api.ArtifactAnswer](t, s.do(t, http.StatusOK, http.MethodGet, "/api/reviews/"+v.ID+"/artifact?format="+format, nil)).Artifact
		resp, err := http.Get(deref(a.URL))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET %s = %s, %v", format, resp.Status, err)
		}
		if !strings.Contains(string(body), "s1.go") {
			t.Errorf("%s does not name the file with the finding: %s", format, body)
		}
		wantValid(t, "../worker/internal/reviewer/"+schema, body)
	}
	if n := one[int](t, s, "SELECT count(DISTINCT trace_id)::int FROM nofx.event WHERE type LIKE 'review.%' OR type LIKE 'finding.%' OR type LIKE 'run.%'"); n != 1 {
		t.Errorf("traces of the review's events = %d, want one", n)
	}

	// Of a hundred requests under one key, one starts a review.
	ids := make([]string, 100)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			for {
				a, err := s.ask(t.Context(), http.MethodPost, "/api/reviews", map[string]any{"provider": "diff", "diff": flawed(2)}, header{"Idempotency-Key", `"review"`})
				if err != nil {
					t.Errorf("POST /api/reviews = %v", err)
					return
				}
				if a.status == http.StatusConflict || a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
					continue // in flight
				}
				ids[i] = decode[api.CreatedReview](t, a).Review.ID
				return
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("reviews = %v, want one", ids)
		}
	}
}

// TestKilledReviews kills workers in each window of reviews: every review has its verdict in
// the end, from the stage at which the dead one left it, and each finding once.
func TestKilledReviews(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 1, Env: map[string]string{"NOFX_TEST": "1"}})
	steady := s.Workers()[0]
	doomed := s.doomed(t, 1)
	n := 0
	for _, window := range []string{"after_claim", "mid_exec", "after_put=kill:0.2", "after_put=kill:0.1", "after_put=kill:0.07", "after_effect", "after_commit"} {
		steady.AutoRestart(false)
		if err := steady.Kill(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		action := window
		if len(window) < 10 || window[:9] != "after_put" {
			action += "=kill"
		}
		doomed[0].SetEnv(map[string]string{"NOFX_FAILPOINTS": action})
		if err := doomed[0].Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		death := s.deaths(t, doomed)
		var ids []string
		for range 4 {
			n++
			ids = append(ids, s.reviewDiff(t, flawed(100+n)).Review.ID)
		}
		death()
		steady.AutoRestart(true)
		if err := steady.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			until(t, "the review ends after a kill in "+window, 2*time.Minute, func() bool {
				v := decode[api.ReviewAnswer](t, s.do(t, http.StatusOK, http.MethodGet, "/api/reviews/"+id, nil)).Review
				return v.FinishedAt != nil
			})
			v := decode[api.ReviewAnswer](t, s.do(t, http.StatusOK, http.MethodGet, "/api/reviews/"+id, nil)).Review
			if found := items[api.Finding](t, s.client, "/api/reviews/"+id+"/findings", "10"); v.Verdict == nil || *v.Verdict != "failed" || len(found) != 1 {
				t.Errorf("review killed in %s = %s with %d findings, want failed with one", window, deref(v.Verdict), len(found))
			}
		}
	}
	if got := one[int](t, s, "SELECT count(*)::int FROM nofx.review"); got != n {
		t.Errorf("reviews = %d, want %d: one for each request", got, n)
	}
	if answers := one[int](t, s, "SELECT count(*)::int FROM nofx.review_artifact WHERE stage = 'answer'"); answers != n {
		t.Errorf("answers of models = %d, want %d", answers, n)
	}
	s.holdObjects(t)
}
