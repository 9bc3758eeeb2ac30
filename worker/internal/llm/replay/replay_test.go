package replay_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/replay"
)

// echo answers with what it is asked, and counts.
type echo struct{ calls int }

func (*echo) Name() string { return "m" }

func (e *echo) Complete(_ context.Context, r llm.Request) (llm.Response, error) {
	e.calls++
	if r.Parts[0].Text == "fail" {
		return llm.Response{}, fault.New(fault.Unavailable, "unavailable", "down")
	}
	return llm.Response{Text: "re: " + r.Parts[0].Text, Stop: llm.End, Model: "m-1", Usage: llm.Usage{Input: 3, Output: 4}}, nil
}

func request(text string) llm.Request {
	return llm.Request{System: "s", Parts: []llm.Part{{Text: text}}}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	vendor := &echo{}
	recorder := replay.Record(vendor, dir)
	want, err := recorder.Complete(t.Context(), request("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := recorder.Complete(t.Context(), request("fail")); err == nil {
		t.Fatal("Complete(fail) = nil, want the vendor's error")
	}
	m := replay.New(dir, "m")
	if got, err := m.Complete(t.Context(), request("one")); err != nil || got != want || vendor.calls != 2 {
		t.Errorf("Complete(one) = %+v, %v, want what was recorded, %+v, and no call", got, err, want)
	}
	for _, text := range []string{"fail", "two"} {
		digest, _ := request(text).Digest("m")
		_, err := m.Complete(t.Context(), request(text))
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "not-recorded" || !strings.Contains(e.Detail, digest) {
			t.Errorf("Complete(%s) = %v, want not-recorded with %s", text, err, digest)
		}
	}
	if _, err := replay.New(dir, "n").Complete(t.Context(), request("one")); !errors.Is(err, fault.NotFound) {
		t.Errorf("Complete of another model = %v, want not found", err)
	}
	files, _ := filepath.Glob(dir + "/*")
	if len(files) != 1 {
		t.Fatalf("recordings = %v, want one", files)
	}
	if raw, _ := os.ReadFile(files[0]); strings.Contains(string(raw), `"s"`) {
		t.Errorf("the recording holds the request: %s", raw)
	}
	if err := os.WriteFile(files[0], []byte(`{"text":"x"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Complete(t.Context(), request("one")); !errors.Is(err, fault.Invalid) {
		t.Errorf("Complete(broken recording) = %v, want invalid", err)
	}
}
