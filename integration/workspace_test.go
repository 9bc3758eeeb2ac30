package integration_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

// upload brings bytes to the gateway as an artifact.
func (s *system) upload(t *testing.T, name string, content []byte) api.Artifact {
	t.Helper()
	created := decode[api.CreatedArtifact](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/artifacts",
		map[string]any{"name": name, "size_bytes": len(content), "sha256": digestOf(content)}))
	req, err := http.NewRequestWithContext(t.Context(), string(created.Upload.Method), created.Upload.URL, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("PUT of %s = %d %s, want 200", name, resp.StatusCode, body)
	}
	return decode[api.ArtifactAnswer](t, s.do(t, http.StatusOK, http.MethodPost, "/api/artifacts/"+created.Artifact.ID+"/complete", nil)).Artifact
}

// startIn starts a run whose files come from somewhere.
func (s *system) startIn(t *testing.T, workspace map[string]any, steps ...step) api.CreatedRun {
	t.Helper()
	body := plan(steps...)
	body["plan"].(map[string]any)["workspace"] = workspace
	return decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", body))
}

// sameRoot checks that all that begin after fetch begin from its one checkpoint.
func sameRoot(t *testing.T, s *system, d api.RunDetail, fetch string, roots ...string) {
	t.Helper()
	if first := d.Steps[0]; first.Name != fetch || first.Idx != 0 || len(first.DependsOn) != 0 {
		t.Errorf("first step = %s at %d after %v, want %s", first.Name, first.Idx, first.DependsOn, fetch)
	}
	post := checkpointOf(t, s, d.Run.ID, d.Steps[0].ID, api.CheckpointKindPost)
	for _, name := range roots {
		st := named(t, d, name)
		pre := checkpointOf(t, s, d.Run.ID, st.ID, api.CheckpointKindPre)
		if !slices.Equal(st.DependsOn, []string{fetch}) || !slices.Equal(pre.Parents, []string{post.ID}) || pre.TreeDigest != post.TreeDigest {
			t.Errorf("step %s depends on %v and begins from %v %s, want from %s %s", name, st.DependsOn, pre.Parents, pre.TreeDigest, post.ID, post.TreeDigest)
		}
	}
}

// both returns two steps that begin a run, and a third after them.
func both(script string) []step {
	left, right := bash("left", script+"; echo left > left"), bash("right", script+"; echo right > right")
	left.DependsOn, right.DependsOn = []string{}, []string{}
	return []step{left, right, bash("last", script+"; cat left right", "left", "right")}
}

// A run begins in a repository, whose server may be asked by nobody else.
func workspaceGit(t *testing.T, s *system, allowed, outside repo) {
	id := s.startIn(t, map[string]any{"source": "git", "git": map[string]string{"url": "file://" + allowed.dir, "ref": "main"}},
		both("cat greeting; git rev-parse HEAD")...).Run.ID
	d := s.await(t, id, api.RunStatusSucceeded)
	sameRoot(t, s, d, "workspace~git", "left", "right")
	if got := members(t, d.Steps[0].Outputs)["commit"]; got != allowed.commit {
		t.Errorf("commit = %v, want %s", got, allowed.commit)
	}
	want := "hello from " + allowed.dir + "\n" + allowed.commit + "\nleft\nright\n"
	if got := s.log(t, named(t, d, "last").ID); got != want {
		t.Errorf("log of the last step = %q, want %q", got, want)
	}
	d = s.rerun(t, d)
	sameRoot(t, s, d, "workspace~git", "left", "right")
	if got := s.log(t, named(t, d, "last").ID); got != want {
		t.Errorf("log of the last step of the rerun = %q, want %q", got, want)
	}
	d = s.await(t, s.startIn(t, map[string]any{"source": "git", "git": map[string]string{"url": "file://" + outside.dir}}, bash("never", "true")).Run.ID, api.RunStatusFailed)
	if f := d.Steps[0]; deref(f.FailureClass) != api.FailureClassPolicy || named(t, d, "never").Status != api.StepStatusSkipped {
		t.Errorf("a repository that is not allowed = %s (%s), the plan's step %s; want policy, and skipped", deref(f.FailureClass), deref(f.Reason), d.Steps[1].Status)
	}
}

// archived is what the archives hold.
var archived = []struct{ name, content string }{
	{"bin/hello", "#!/bin/sh\necho hello from $0\n"}, {"data/one", "1\n"}, {"data/sub/two", "2\n"},
}

func tarball(t *testing.T, extra ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range archived {
		extra = append(extra, &tar.Header{Typeflag: tar.TypeReg, Name: "./" + f.name, Mode: 0o755, Size: int64(len(f.content))})
	}
	for _, h := range extra {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		for _, f := range archived {
			if h.Name == "./"+f.name {
				fmt.Fprint(w, f.content)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipball(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range archived {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(0o755)
		out, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(out, f.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A run begins from an archive, which is unpacked once.
func workspaceUpload(t *testing.T, s *system) {
	for name, content := range map[string][]byte{"tree.tar.gz": tarball(t), "tree.zip": zipball(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := s.upload(t, name, content)
			id := s.startIn(t, map[string]any{"source": "upload", "artifact_id": a.ID}, both("bin/hello; cat data/one data/sub/two")...).Run.ID
			d := s.await(t, id, api.RunStatusSucceeded)
			sameRoot(t, s, d, "workspace~upload", "left", "right")
			for range 2 { // of the rerun as well
				if got, want := s.log(t, named(t, d, "last").ID), "hello from bin/hello\n1\n2\nleft\nright\n"; got != want {
					t.Errorf("log of the last step = %q, want %q", got, want)
				}
				d = s.rerun(t, d)
			}
		})
	}
	for name, content := range map[string][]byte{
		"no archive":  []byte("hello"),
		"climbs":      tarball(t, &tar.Header{Typeflag: tar.TypeReg, Name: "../../escaped"}),
		"leads out":   tarball(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: "passwd", Linkname: "/etc/passwd"}),
		"is a device": tarball(t, &tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := s.upload(t, "tree.tar.gz", content)
			id := s.startIn(t, map[string]any{"source": "upload", "artifact_id": a.ID}, bash("never", "true")).Run.ID
			d := s.await(t, id, api.RunStatusFailed)
			if f := d.Steps[0]; deref(f.FailureClass) != api.FailureClassInvalid || !strings.HasPrefix(deref(f.Reason), "unpack the archive: ") || len(s.attempts(t, f.ID)) != 1 {
				t.Errorf("an archive that %s = %s (%s), want invalid, at the first attempt", name, deref(f.FailureClass), deref(f.Reason))
			}
		})
	}
}

// A file of a plan may be an artifact, of any size and any bytes.
func artifactFile(t *testing.T, s *system) {
	content := bytes.Repeat([]byte("\x00\xff large \n"), 1<<17)
	a := s.upload(t, "large.bin", content)
	id := s.create(t, step{Name: "files", Tool: "workspace:write", Inputs: map[string]any{"files": []map[string]any{
		{"path": "in/large.bin", "artifact_id": a.ID}, {"path": "small", "content": "text"},
	}}}, bash("sum", "sha256sum in/large.bin; cat small")).Run.ID
	d := s.await(t, id, api.RunStatusSucceeded)
	if got, want := s.log(t, named(t, d, "sum").ID), digestOf(content)+"  in/large.bin\ntext"; got != want {
		t.Errorf("the file = %q, want %q", got, want)
	}
	checkArtifact(t, s, a.ID)
}
