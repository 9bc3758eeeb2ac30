package integration_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// TestDiffIsComputedOnce asks for the diff of a step's checkpoint from fifty clients at
// once: one system run computes it, and git apply makes what the step left of what it found.
func TestDiffIsComputedOnce(t *testing.T) {
	t.Parallel()
	s := up(t, harness.Config{Workers: 2})
	const first, second = "mkdir d && seq 200 >d/n && printf 'no end' >e && ln -s e l && echo same >f", "seq 100 >d/n && seq 150 250 >>d/n && printf 'no end now' >e && ln -sfn f l && mv f 'd/f g' && chmod 755 d/n"
	created := decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", map[string]any{"plan": map[string]any{"goal": "change files", "steps": []any{
		map[string]any{"name": "first", "tool": "bash", "inputs": map[string]any{"script": first}},
		map[string]any{"name": "second", "tool": "bash", "inputs": map[string]any{"script": second}},
	}}}))
	s.await(t, created.Run.ID, api.RunStatusSucceeded)
	var post api.Checkpoint
	for _, ck := range items[api.Checkpoint](t, s.client, "/api/runs/"+created.Run.ID+"/checkpoints", "100") {
		if ck.Kind == api.CheckpointKindPost {
			post = ck
		}
	}
	path := "/api/runs/" + created.Run.ID + "/checkpoints/" + post.ID + "/diff"
	answers := make([]answer, 50)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = s.do(t, http.StatusOK, http.MethodGet, path, nil) })
	}
	wg.Wait()
	for _, a := range answers {
		if !bytes.Equal(a.body, answers[0].body) {
			t.Fatalf("answers differ:\n%s\n%s", a.body, answers[0].body)
		}
	}
	if list := items[api.Run](t, s.client, "/api/runs?kind=system", "10"); len(list) != 1 {
		t.Errorf("system runs = %d, want one for fifty requests", len(list))
	}
	d := decode[api.CheckpointDiff](t, answers[0]).Diff
	if want := "4 files changed; second succeeded"; d == nil || d.Summary.Text != want {
		t.Fatalf("diff = %s, want %q", answers[0].body, want)
	}
	patch := s.do(t, http.StatusOK, http.MethodGet, path+"?format=unified", nil).body

	got, want := t.TempDir(), t.TempDir()
	for dir, scripts := range map[string][]string{got: {first}, want: {first, second}} {
		for _, script := range scripts {
			command(t, dir, nil, "bash", "-e", "-c", script)
		}
	}
	command(t, got, patch, "git", "apply", "-")
	if out := command(t, want, nil, "bash", "-c", fmt.Sprintf("diff -r --no-dereference . %s && stat -c '%%a' d/n %s", got, filepath.Join(got, "d/n"))); string(out) != "755\n755\n" {
		t.Errorf("git apply makes another tree:\n%s\nof\n%s", out, patch)
	}
}

// command runs a program in a folder and returns what it prints.
func command(t *testing.T, dir string, input []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(input)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return out
}
