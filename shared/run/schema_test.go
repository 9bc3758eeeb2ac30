package run

import (
	"encoding/json"
	"testing"

	"nofx.dev/shared/fault"
)

func TestStateSchema(t *testing.T) {
	t.Parallel()
	const schema = `{"type":"object","properties":{
		"vars":{"properties":{"log":{"type":"array","x-merge":"append"},"a/b":{"additionalProperties":{"x-merge":"set"}}}},
		"steps":{"additionalProperties":{"properties":{"outputs":{"properties":{"found":{"x-merge":"byKey:id"}}}}}}}}`
	var s *StateSchema
	if err := json.Unmarshal([]byte(schema), &s); err != nil {
		t.Fatal(err)
	}
	for pointer, want := range map[string]string{
		"/vars/log": "append", "/vars/log/0": "", "/vars": "", "/vars/other": "", "/vars/a~1b/c": "set",
		"/steps/x/outputs/found": "byKey:id", "/steps/x/state": "",
	} {
		if got := s.ArrayMerge(pointer); got != want {
			t.Errorf("ArrayMerge(%s) = %q, want %q", pointer, got, want)
		}
	}
	if got := (*StateSchema)(nil).ArrayMerge("/vars/log"); got != "" {
		t.Errorf("ArrayMerge() without a schema = %q, want none", got)
	}
	for doc, pointer := range map[string]string{
		schema:                                         "",
		`{"properties":{"var":{}}}`:                    "/plan/state_schema/properties/var",
		`{"additionalProperties":{}}`:                  "/plan/state_schema/additionalProperties",
		`{"type":"text"}`:                              "/plan/state_schema/type",
		`{"properties":{"vars":null}}`:                 "/plan/state_schema/properties/vars",
		`{"properties":{"vars":{"x-merge":"last"}}}`:   "/plan/state_schema/properties/vars/x-merge",
		`{"properties":{"vars":{"x-merge":"byKey:"}}}`: "/plan/state_schema/properties/vars/x-merge",
		`{"properties":{"vars":{"type":"object","x-merge":"append"}}}`: "/plan/state_schema/properties/vars/x-merge",
	} {
		p := Plan{Goal: "g", Steps: []PlanStep{{Name: "a", Tool: ToolSleep, Inputs: json.RawMessage(`{"duration_s":1}`)}}}
		if err := json.Unmarshal([]byte(doc), &p.StateSchema); err != nil {
			t.Fatal(err)
		}
		_, err := p.Normalise()
		e, _ := err.(*fault.Error)
		if pointer == "" && err != nil || pointer != "" && (e == nil || len(e.Fields) != 1 || e.Fields[0].Pointer != pointer) {
			t.Errorf("Normalise(%s) = %v, want an error at %q", doc, err, pointer)
		}
	}
}
