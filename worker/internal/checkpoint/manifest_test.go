package checkpoint

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

func TestManifest(t *testing.T) {
	t.Parallel()
	m := Manifest{
		Kind: "post", Tenant: "ten_1", Run: "run_1", Step: "build", Fence: 3, Parents: []tree.Digest{tree.Empty},
		State: StateRef{"full", tree.EmptyFile, 1822}, Tree: tree.Empty,
		Gate: &GateRef{"gate_1", "failed"}, Code: Code{Worker: "1.4.2", Plan: tree.EmptyFile.String()},
		Trace: Trace{"0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"}, Created: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600)),
	}
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	want := `{"code":{"plan":"` + empty + `","worker":"1.4.2"},"created":"2026-01-02T02:04:05.000006Z","excludes":[],"fence":3,` +
		`"gate":{"id":"gate_1","verdict":"failed"},"kind":"post","parents":["` + tree.Empty.String() + `"],"run":"run_1","sessions":[],` +
		`"state":{"digest":"` + empty + `","enc":"full","size":1822},"step":"build","tenant":"ten_1","trace":{"span_id":"b7ad6b7169203331",` +
		`"trace_id":"0af7651916cd43dd8448eb211c80319c"},"tree":"` + tree.Empty.String() + `","v":1}`
	b, d, err := m.Encode()
	if err != nil || string(b) != want {
		t.Errorf("Encode = %v\n got %s\nwant %s", err, b, want)
	}
	if d != tree.Sum([]byte(want)) {
		t.Errorf("Encode = digest %s, want that of the bytes", d)
	}
	var back Manifest
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if _, again, err := back.Encode(); err != nil || again != d {
		t.Errorf("Encode(decoded) = %s, %v, want %s", again, err, d)
	}
	m.Step = strings.Repeat("x", manifestLimit)
	if _, _, err := m.Encode(); !errors.Is(err, fault.Invalid) {
		t.Errorf("Encode(huge) = %v, want Invalid", err)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	encode := func(s State) Document {
		t.Helper()
		d, err := s.Encode()
		if err != nil {
			t.Fatalf("Encode: %v", err)
		}
		return d
	}
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }

	a := encode(State{
		Steps: map[string]StepState{"b": {State: "succeeded", Outputs: raw(` {"z": 1, "a":[12345678901234567890, 1.10, null, "<&>"]} `), Attempt: 2}, "a": {State: "pending"}},
		Vars:  map[string]json.RawMessage{"v": raw("1e400")},
	})
	want := `{"steps":{"a":{"state":"pending","attempt":0},"b":{"state":"succeeded","outputs":{"a":[12345678901234567890,1.10,null,"<&>"],"z":1},"attempt":2}},"vars":{"v":1e400}}`
	if string(a.Inline) != want || a.Ref != (StateRef{"full", tree.Sum([]byte(want)), int64(len(want))}) || len(a.Contents) != 0 {
		t.Errorf("Encode = %+v, %s\nwant inline %s", a.Ref, a.Inline, want)
	}
	if empty := encode(State{}); string(empty.Inline) != `{"steps":{},"vars":{}}` {
		t.Errorf("Encode(nothing) = %s", empty.Inline)
	}

	// Large outputs leave the document, a large document leaves the row.
	large := `"` + strings.Repeat("o", outputsInline) + `"`
	moved := encode(State{Steps: map[string]StepState{"s": {State: "succeeded", Outputs: raw(large)}}})
	if d := cmp.Diff([][]byte{[]byte(large)}, moved.Contents); d != "" || !strings.Contains(string(moved.Inline), `"outputs_ref":"`+tree.Sum([]byte(large)).String()) {
		t.Errorf("Encode(large outputs) = %s (-want contents +got):\n%s", moved.Inline, d)
	}
	vars := map[string]json.RawMessage{"v": raw(`"` + strings.Repeat("v", stateInline) + `"`)}
	if big := encode(State{Vars: vars}); big.Inline != nil || len(big.Contents) != 1 || tree.Sum(big.Contents[0]) != big.Ref.Digest {
		t.Errorf("Encode(large state) = %d bytes inline, %d contents, want the document as content", len(big.Inline), len(big.Contents))
	}
	vars["v"] = raw(`"` + strings.Repeat("v", stateLimit) + `"`)
	if _, err := (State{Vars: vars}).Encode(); !errors.Is(err, fault.Invalid) {
		t.Errorf("Encode(beyond the limit) = %v, want Invalid", err)
	}
	for _, bad := range []string{"{", "1 2", "nope"} {
		if _, err := (State{Vars: map[string]json.RawMessage{"v": raw(bad)}}).Encode(); err == nil {
			t.Errorf("Encode(%s) = nil error, want one", bad)
		}
	}
}
