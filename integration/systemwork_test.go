package integration_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestSystemWorkOfAKilledWorker kills a worker in each kind of work on checkpoints when its
// first object is stored and no row is written. Another worker does the work once more, and
// what both have stored is the same: every row has its object, and every object its row.
func TestSystemWorkOfAKilledWorker(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Env: map[string]string{"NOFX_TEST": "1"}})
	doomed := s.doomed(t, 1)
	first := s.await(t, s.create(t, bash("base", "seq 100 > n; mkdir d; ln -s ../n d/l"), bash("left", "seq 300 > left", "base"), bash("right", "seq 400 > right; sed -i s/^50$/fifty/ n", "base")).Run.ID, api.RunStatusSucceeded)
	run := "/api/runs/" + first.Run.ID
	base := checkpointOf(t, s, first.Run.ID, named(t, first, "base").ID, api.CheckpointKindPost).ID
	right := checkpointOf(t, s, first.Run.ID, named(t, first, "right").ID, api.CheckpointKindPost).ID
	other := s.branch(t, first.Run.ID, base, map[string]any{"files": []map[string]any{{"path": "other", "content": strings.Repeat("other\n", 100)}}})

	for _, tt := range []struct {
		name  string
		start func() (runID string)
		check func(t *testing.T, runID string)
	}{
		{"archive", func() string {
			return decode[api.CheckpointArchive](t, s.do(t, http.StatusAccepted, http.MethodPost, run+"/checkpoints/"+right+"/archive?wait_s=0", nil)).ArchiveRunID
		}, func(t *testing.T, runID string) {
			if n := len(items[api.Artifact](t, s.client, "/api/runs/"+runID+"/artifacts", "10")); n != 1 {
				t.Errorf("artifacts = %d, want one", n)
			}
			a := decode[api.CheckpointArchive](t, s.do(t, http.StatusOK, http.MethodPost, run+"/checkpoints/"+right+"/archive", nil)).Artifact
			if got, want := namesIn(t, download(t, *a.URL)), []string{"d/", "d/l", "n", "right"}; cmp.Diff(want, got) != "" {
				t.Errorf("archive = %q, want %q", got, want)
			}
		}},
		{"diff", func() string {
			return deref(decode[api.CheckpointDiff](t, s.do(t, http.StatusAccepted, http.MethodGet, run+"/checkpoints/"+right+"/diff?wait_s=0", nil)).DiffRunID)
		}, func(t *testing.T, runID string) {
			if n := one[int](t, s, "SELECT count(*)::int FROM nofx.diff"); n != 1 {
				t.Errorf("diffs = %d, want one", n)
			}
			d := decode[api.CheckpointDiff](t, s.do(t, http.StatusOK, http.MethodGet, run+"/checkpoints/"+right+"/diff", nil)).Diff
			if want := "2 files changed; right succeeded"; d == nil || d.Summary.Text != want || d.Summary.Lines.Added != 401 {
				t.Errorf("diff = %+v, want %s and 401 lines added", d, want)
			}
		}},
		{"checkpoint", func() string {
			return decode[api.CreatedCheckpoint](t, s.do(t, http.StatusAccepted, http.MethodPost, run+"/checkpoints?wait_s=0", map[string]any{"label": "both"})).CheckpointRunID
		}, func(t *testing.T, runID string) {
			if n := one[int](t, s, "SELECT count(*)::int FROM nofx.checkpoint WHERE label = 'both' AND kind = 'manual'"); n != 1 {
				t.Errorf("manual checkpoints = %d, want one", n)
			}
		}},
		{"merge", func() string {
			return deref(decode[api.MergeAnswer](t, s.do(t, http.StatusCreated, http.MethodPost, run+"/merges", map[string]any{"source_run_id": other.Run.ID})).Merge.MergeRunID)
		}, func(t *testing.T, runID string) {
			m := items[api.Merge](t, s.client, run+"/merges", "10")
			if len(m) != 1 || m[0].Status != api.MergeStatusReady || !m[0].Prepared {
				t.Fatalf("merges = %+v, want one that is ready", m)
			}
			s.do(t, http.StatusOK, http.MethodPost, "/api/merges/"+m[0].ID+"/commit", nil)
			if got := s.file(t, s.run(t, first.Run.ID), "other"); !strings.HasPrefix(got, "other\n") {
				t.Errorf("other = %q, want what was merged", got)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.arm(t, doomed, "after_put")
			awaitDeath := s.deaths(t, doomed)
			before := s.storage.keys(t)
			runID := tt.start()
			awaitDeath()
			left := s.storage.keys(t)
			if len(left) == len(before) {
				t.Error("the dead worker has stored nothing, want its first object")
			}
			heir, err := s.AddWorker(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			d := s.await(t, runID, api.RunStatusSucceeded)
			if st := d.Steps[0]; d.Run.Kind != api.RunKindSystem || st.Attempts != 2 {
				t.Errorf("run = %s, step = %s after %d attempts, want a system run after two", d.Run.Kind, st.Tool, st.Attempts)
			}
			tt.check(t, runID)
			s.holdObjects(t)
			rows := list[string](t, s, "SELECT key FROM nofx.object UNION SELECT key FROM nofx.log_chunk UNION SELECT key FROM nofx.artifact")
			named := map[string]bool{}
			for _, key := range rows {
				named[key] = true
			}
			for key := range s.storage.keys(t) {
				if _, ok := left[key]; !named[key] && !ok { // what the dead left is the collection's
					t.Errorf("object %s has no row, and was stored by the worker that did the work", key)
				}
			}
			heir.AutoRestart(false)
			heir.Stop()
		})
	}
}

// namesIn lists the entries of an archive.
func namesIn(t *testing.T, archive []byte) (names []string) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
