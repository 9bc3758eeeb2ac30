package run_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
)

const artifact = "art_00000000000000000000000000000001"

func normalised(t testing.TB, doc string) run.Plan {
	t.Helper()
	p, err := parse(t, doc).Normalise()
	if err != nil {
		t.Fatalf("Normalise(%s) = %v, want nil", doc, err)
	}
	return p
}

// The step that brings a workspace in is the first of a run's, and those of the
// plan that would begin wait for it; the plan itself stays what it was.
func TestExpanded(t *testing.T) {
	t.Parallel()
	const steps = `"steps":[
		{"name":"a","tool":"bash","inputs":{"script":"true"},"depends_on":[]},
		{"name":"b","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]},
		{"name":"c","tool":"manual:ok","inputs":{"message":"?"},"depends_on":[]}]}`
	for name, tt := range map[string]struct{ workspace, fetch, tool, inputs string }{
		"empty":  {`{}`, "", "", ""},
		"git":    {`{"source":"git","git":{"url":"https://host/x","ref":"main"},"excludes":["tmp"]}`, "workspace~git", "git:checkout", `{"url":"https://host/x","ref":"main"}`},
		"upload": {`{"source":"upload","artifact_id":"` + artifact + `"}`, "workspace~upload", "workspace:unpack", `{"artifact_id":"` + artifact + `"}`},
	} {
		p := normalised(t, `{"goal":"g","workspace":`+tt.workspace+`,"policy":{"tools_allowed":["bash","manual:*"]},`+steps)
		_, digest, err := p.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		e := p.Expanded()
		got := map[string][]string{}
		for _, s := range e.Steps {
			got[s.Name] = s.DependsOn
		}
		want := map[string][]string{"a": {}, "b": {"a"}, "c": {}}
		if tt.fetch != "" {
			want = map[string][]string{tt.fetch: {}, "a": {tt.fetch}, "b": {"a"}, "c": {tt.fetch}}
			f, spec := e.Steps[0], e.Spec(0)
			if f.Name != tt.fetch || f.Tool != tt.tool || string(spec.Inputs) != tt.inputs || spec.TimeoutS == 0 || spec.Retry.MaxAttempts == 0 {
				t.Errorf("%s: first step = %s %s %s, spec %+v; want %s %s %s", name, f.Name, f.Tool, f.Inputs, spec, tt.fetch, tt.tool, tt.inputs)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: steps (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(e, e.Expanded()); diff != "" {
			t.Errorf("%s: expanded twice (-once +twice):\n%s", name, diff)
		}
		if _, after, err := p.Canonical(); err != nil || after != digest {
			t.Errorf("%s: the plan's digest is %s after expansion, %v, want %s", name, after, err, digest)
		}
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if again := normalised(t, string(raw)); cmp.Diff(p, again) != "" {
			t.Errorf("%s: normalised again (-first +again):\n%s", name, cmp.Diff(p, again))
		}
	}
}

func TestArtifacts(t *testing.T) {
	t.Parallel()
	p := normalised(t, `{"goal":"g","workspace":{"source":"upload","artifact_id":"`+artifact+`"},"steps":[
		{"name":"a","tool":"bash","inputs":{"script":"echo \"artifact_id\""}},
		{"name":"b","tool":"workspace:write","inputs":{"files":[{"path":"x","content":"\"artifact_id\""},{"path":"y","artifact_id":"`+artifact+`"}]}}]}`)
	var got []string
	for _, r := range p.Artifacts() {
		got = append(got, r.Pointer+" "+run.ArtifactID.Format(r.ID))
	}
	want := []string{"/plan/workspace/artifact_id " + artifact, "/plan/steps/1/inputs/files/1/artifact_id " + artifact}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Artifacts() (-want +got):\n%s", diff)
	}
}
