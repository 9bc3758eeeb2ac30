package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

func contract(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(api.Contract)
	if err != nil {
		t.Fatalf("LoadFromData(Contract) = %v", err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("Validate(Contract) = %v", err)
	}
	return doc
}

// TestOperations holds every operation to the conventions that the contract's
// introduction promises.
func TestOperations(t *testing.T) {
	t.Parallel()
	camelCase := regexp.MustCompile(`^[a-z][A-Za-z]*$`)
	role := regexp.MustCompile(`^(none|viewer|operator|supervisor|admin)$`)
	scope := regexp.MustCompile(`^(none|[a-z]+:(read|write))$`)
	doc := contract(t)
	seen := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			name := method + " " + path
			if !camelCase.MatchString(op.OperationID) || seen[op.OperationID] {
				t.Errorf("%s: operationId = %q, want a camelCase name of its own", name, op.OperationID)
			}
			seen[op.OperationID] = true
			if got, _ := op.Extensions["x-nofx-role"].(string); !role.MatchString(got) {
				t.Errorf("%s: x-nofx-role = %q, want a match of %v", name, got, role)
			}
			if got, _ := op.Extensions["x-nofx-scope"].(string); !scope.MatchString(got) {
				t.Errorf("%s: x-nofx-scope = %q, want a match of %v", name, got, scope)
			}
			if op.RequestBody != nil {
				wantClosed(t, name, op.RequestBody.Value.Content.Get("application/json").Schema, map[*openapi3.Schema]bool{})
			}
			wantAnswers(t, name, op)
		}
	}
}

// wantAnswers checks that refusals are problems and that all answers name their
// trace.
func wantAnswers(t *testing.T, name string, op *openapi3.Operation) {
	t.Helper()
	if op.Responses.Default() == nil {
		t.Errorf("%s: no default answer", name)
	}
	for status, response := range op.Responses.Map() {
		if _, ok := response.Value.Headers["X-Trace-Id"]; !ok {
			t.Errorf("%s: answer %s lacks X-Trace-Id", name, status)
		}
		// Readiness is what was asked for, whatever it is.
		refusal := status == "default" || status >= "400" && op.OperationID != "readyz"
		media := slices.Collect(maps.Keys(response.Value.Content))
		if refusal && !slices.Equal(media, []string{"application/problem+json"}) {
			t.Errorf("%s: answer %s is %v, want application/problem+json", name, status, media)
		}
	}
}

// wantClosed checks that a request body allows no unknown member, at any depth
// that the contract describes. Schemas that were looked at before are in seen: one may
// contain itself.
func wantClosed(t *testing.T, name string, ref *openapi3.SchemaRef, seen map[*openapi3.Schema]bool) {
	t.Helper()
	s := ref.Value
	if seen[s] {
		return
	}
	seen[s] = true
	for property, p := range s.Properties {
		wantClosed(t, name+"/"+property, p, seen)
	}
	if s.Items != nil {
		wantClosed(t, name+"/items", s.Items, seen)
	}
	if len(s.Properties) > 0 && (s.AdditionalProperties.Has == nil || *s.AdditionalProperties.Has) {
		t.Errorf("%s: additionalProperties is not false", name)
	}
}

// TestGeneratedShapes checks a few generated shapes that the generator has to be
// asked for: free objects keep their bytes, and the last page's cursor is null.
func TestGeneratedShapes(t *testing.T) {
	t.Parallel()
	var step api.Step
	if err := json.Unmarshal([]byte(`{"outputs":{"n":12345678901234567890}}`), &step); err != nil {
		t.Fatal(err)
	}
	if got, want := string(step.Outputs), `{"n":12345678901234567890}`; got != want {
		t.Errorf("Step.Outputs = %s, want %s", got, want)
	}
	got, err := json.Marshal(api.RunPage{Items: []api.Run{}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`{"items":[],"next_cursor":null}`, string(got)); diff != "" {
		t.Errorf("Marshal(RunPage{}) (-want +got):\n%s", diff)
	}
}

// TestListsOfTypes checks that list parameters go out separated by commas.
func TestListsOfTypes(t *testing.T) {
	t.Parallel()
	req, err := api.NewListEventsRequest("http://gateway", &api.ListEventsParams{Types: []string{"step.*", "gate.passed"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := req.URL.Query().Get("types"), "step.*,gate.passed"; got != want {
		t.Errorf("types = %q, want %q", got, want)
	}
	if !strings.HasSuffix(req.URL.Path, "/api/events") || req.Method != http.MethodGet {
		t.Errorf("request = %s %s, want GET /api/events", req.Method, req.URL)
	}
}
