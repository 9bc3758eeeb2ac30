package integration_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	s3client "github.com/minio/minio-go/v7"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestPurgedTextIsNowhere purges a file from a run that was compared, archived and merged,
// and whose content was uploaded as well: the text is in no object of the storage and in no
// answer, and all that had it works on without.
func TestPurgedTextIsNowhere(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2})
	leak := "the words that leaked are " + uuid.NewString()
	content := "first line\n" + leak + "\n"
	large := strings.Repeat(leak+"\n", 10_000) // an object of its own
	digest := map[string]string{"note": digestOf([]byte(content)), "large": digestOf([]byte(large))}

	target := s.await(t, s.create(t,
		bash("a", fmt.Sprintf("mkdir d && printf 'first line\\n%s\\n' > d/note && yes '%s' | head -n 10000 > large && echo kept > kept", leak, leak)),
		bash("b", "echo ours > d/note; echo more >> kept", "a"),
	).Run.ID, api.RunStatusSucceeded)
	base := "/api/runs/" + target.Run.ID + "/checkpoints/"
	a := checkpointOf(t, s, target.Run.ID, named(t, target, "a").ID, api.CheckpointKindPost).ID
	b := checkpointOf(t, s, target.Run.ID, named(t, target, "b").ID, api.CheckpointKindPost).ID
	source := s.branch(t, target.Run.ID, a, map[string]any{"files": []map[string]any{{"path": "d/note", "content": "theirs\n"}},
		"plan_patch": []map[string]any{{"op": "replace", "path": "/steps/1/inputs/script", "value": "echo other > other"}}})
	merging := func(mode string) api.Merge {
		t.Helper()
		m := decode[api.MergeAnswer](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", map[string]any{"source_run_id": source.Run.ID, "mode": mode})).Merge
		until(t, "the merge is computed", time.Minute, func() bool {
			m = get[api.MergeAnswer](t, s.client, "/api/merges/"+m.ID).Merge
			return m.Status != api.MergeStatusOpen
		})
		return m
	}
	merge := merging("normal")
	uploaded := s.uploaded(t, content)
	archived := func() (names []string) {
		t.Helper()
		out := decode[api.CheckpointArchive](t, s.do(t, http.StatusOK, http.MethodPost, base+a+"/archive", nil))
		z, err := gzip.NewReader(bytes.NewReader(download(t, deref(out.Artifact.URL))))
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return names
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
		}
	}
	if names := archived(); !slices.Contains(names, "d/note") || !slices.Contains(names, "large") {
		t.Fatalf("archive = %v, want all files", names)
	}
	asked := []string{
		base + a + "/diff", base + a + "/diff?path=d", base + a + "/diff?format=unified&path=d", base + b + "/diff", base + b + "/diff?format=unified", base + b + "/diff?path=d",
		base + a + "/file?path=d/note", base + a + "/file?path=large", "/api/merges/" + merge.ID, "/api/artifacts/" + uploaded, "/api/runs/" + target.Run.ID + "/artifacts",
	}
	shown := 0
	for _, path := range asked {
		shown += bytes.Count(s.do(t, http.StatusOK, http.MethodGet, path, nil).body, []byte(leak))
	}
	if held := s.holding(t, leak); len(held) < 6 || shown < 6 {
		t.Fatalf("before the purge %d objects hold the text and answers show it %d times, want more: the test looks at nothing", len(held), shown)
	}

	for name, d := range digest {
		p := decode[api.PurgeAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/blobs/"+d+"/purge", map[string]any{"reason": "leaked in " + name}))
		if detail := s.run(t, p.PurgeRunID); detail.Run.Status != api.RunStatusSucceeded {
			t.Errorf("purge of %s = %s, want it done", name, detail.Run.Status)
		} else {
			t.Logf("purge of %s: %s", name, detail.Steps[0].Outputs)
		}
	}
	nowhere := func(when string) {
		t.Helper()
		for _, key := range s.holding(t, leak) {
			t.Errorf("%s object %s holds the purged text", when, key)
		}
	}
	nowhere("after the purge")

	for _, path := range asked {
		want := http.StatusOK
		if strings.Contains(path, "/file?") || strings.Contains(path, uploaded) {
			want = http.StatusGone
		}
		got := s.do(t, want, http.MethodGet, path, nil).body
		if bytes.Contains(got, []byte(leak)) {
			t.Errorf("%s still shows the purged text", path)
		}
	}
	for at, files := range map[string]int{a: 2, b: 1} {
		diff := decode[api.CheckpointDiff](t, s.do(t, http.StatusOK, http.MethodGet, base+at+"/diff", nil)).Diff
		redacted := 0
		for _, f := range diff.Files {
			if f.Kind == api.DiffFileKindRedacted {
				redacted++
			}
		}
		if redacted != files {
			t.Errorf("diff = %+v, want %d files redacted", diff.Files, files)
		}
	}
	if names := archived(); !slices.Equal(names, []string{"d/", "kept"}) {
		t.Errorf("archive = %v, want all but what was purged", names)
	}
	for _, m := range []api.Merge{get[api.MergeAnswer](t, s.client, "/api/merges/"+merge.ID).Merge, merging("strict")} {
		found := false
		for _, c := range m.Conflicts {
			if c.Path != nil && *c.Path == "d/note" {
				found = c.Base != nil && deref(c.Base.Kind) == api.MergeSideKindRedacted && c.Base.Excerpt == nil
			}
		}
		if m.Status != api.MergeStatusConflicted || !found {
			t.Errorf("merge in mode %s = %s, %+v, want the base of d/note redacted", m.Mode, m.Status, m.Conflicts)
		}
	}
	take := decode[api.MergeAnswer](t, s.do(t, http.StatusOK, http.MethodPut, "/api/merges/"+merge.ID+"/resolutions",
		map[string]any{"resolutions": []map[string]any{{"path": "d/note", "take": "theirs"}}})).Merge
	until(t, "the result is stored", time.Minute, func() bool {
		take = get[api.MergeAnswer](t, s.client, "/api/merges/"+merge.ID).Merge
		return take.Prepared
	})
	s.do(t, http.StatusOK, http.MethodPost, "/api/merges/"+merge.ID+"/commit", nil)
	if got := s.file(t, s.run(t, target.Run.ID), "d/note"); got != "theirs\n" {
		t.Errorf("merged file = %q, want theirs", got)
	}
	again := s.branch(t, target.Run.ID, a, map[string]any{"plan_patch": []map[string]any{{"op": "replace", "path": "/steps/1/inputs/script", "value": "ls -R; test ! -e large; test ! -e d/note; echo new > new"}}})
	if log := s.log(t, named(t, again, "b").ID); !strings.Contains(log, "purged") {
		t.Errorf("log of a step whose workspace had purged files = %q, want them named", log)
	}
	// The same content, stored again by a step and by a client, is not kept.
	s.await(t, s.create(t, bash("again", fmt.Sprintf("printf 'first line\\n%s\\n' > copy", leak))).Run.ID, api.RunStatusSucceeded)
	nowhere("after the same content was saved again")
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "logs", "*.log"))
	for _, path := range logs {
		if content, err := os.ReadFile(path); err != nil || bytes.Contains(content, []byte(leak)) {
			t.Errorf("%s shows the purged text, %v", filepath.Base(path), err)
		}
	}
	s.holdObjects(t)
}

// uploaded uploads an artifact and returns its id once it can be read.
func (s *system) uploaded(t *testing.T, content string) string {
	t.Helper()
	a := decode[api.CreatedArtifact](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/artifacts",
		map[string]any{"name": "note", "size_bytes": len(content), "sha256": digestOf([]byte(content))}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, a.Upload.URL, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT = %d, want 200", resp.StatusCode)
	}
	s.do(t, http.StatusOK, http.MethodPost, "/api/artifacts/"+a.Artifact.ID+"/complete", nil)
	return a.Artifact.ID
}

// holding returns the keys of the objects in storage that hold a text, packed or not.
func (s *system) holding(t *testing.T, text string) (keys []string) {
	t.Helper()
	client := s.storage.open(t)
	for key := range s.storage.keys(t) {
		o, err := client.GetObject(t.Context(), s.storage.s3.Bucket, key, s3client.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(o)
		if err := errors.Join(err, o.Close()); err != nil {
			t.Fatalf("read %s: %v", key, err)
		}
		if bytes.Contains(plain(t, content), []byte(text)) {
			keys = append(keys, key)
		}
	}
	return keys
}

// plain returns what an object holds, without its compression.
func plain(t *testing.T, content []byte) []byte {
	t.Helper()
	switch {
	case bytes.HasPrefix(content, []byte("\x28\xb5\x2f\xfd")), bytes.HasPrefix(content, []byte("\x50\x2a\x4d\x18")): // a frame, a pack
		return unpack(t, content)
	case bytes.HasPrefix(content, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	return content
}
