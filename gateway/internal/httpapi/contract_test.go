package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
)

// TestS41_Routes checks that exactly the contract's operations are served.
func TestS41_Routes(t *testing.T) {
	t.Parallel()
	want := map[string]string{}
	for path, item := range contract.Paths.Map() {
		for method, op := range item.Operations() {
			want[method+" "+path] = op.OperationID
		}
	}
	got := map[string]string{}
	for _, op := range (&Server{}).operations() {
		got[op.method+" "+op.path] = op.id
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations (-contract +served):\n%s", diff)
	}
}

// TestKeyedOperations checks that an Idempotency-Key is taken by those operations of
// the contract that have it as a parameter.
func TestKeyedOperations(t *testing.T) {
	t.Parallel()
	var want, got []string
	for _, item := range contract.Paths.Map() {
		for _, op := range item.Operations() {
			if op.Parameters.GetByInAndName("header", "Idempotency-Key") != nil {
				want = append(want, op.OperationID)
			}
		}
	}
	for _, op := range (&Server{}).operations() {
		if op.once {
			got = append(got, op.id)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("operations with an Idempotency-Key (-contract +served):\n%s", diff)
	}
}

// TestEchoRoutes checks what the router really has: the operations, and HEAD of
// those that GET.
func TestEchoRoutes(t *testing.T) {
	t.Parallel()
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, r := range s.echo.Routes() {
		got = append(got, r.Method+" "+s.routes[r.Path].path)
	}
	for _, op := range s.operations() {
		want = append(want, op.method+" "+op.path)
		if op.method == http.MethodGet {
			want = append(want, http.MethodHead+" "+op.path)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-operations +router):\n%s", diff)
	}
}

// TestRules checks that who may call an operation is x-nofx-role and x-nofx-scope.
func TestRules(t *testing.T) {
	t.Parallel()
	got, want := map[string]rule{}, map[string]rule{}
	for _, op := range (&Server{}).operations() {
		got[op.id] = op.rule
	}
	for _, item := range contract.Paths.Map() {
		for _, op := range item.Operations() {
			want[op.OperationID] = operationRule(op)
		}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(rule{})); diff != "" {
		t.Errorf("rules (-contract +table):\n%s", diff)
	}
}

// TestAskedEvents checks that the event of each row is one that a machine has.
func TestAskedEvents(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, m := range run.Machines {
		for _, t := range m.Transitions() {
			known[m.String()+"."+t.Event] = true
		}
	}
	for _, op := range (&Server{}).operations() {
		if op.event != "" && !known[op.event] {
			t.Errorf("%s asks for %q, which no machine knows", op.id, op.event)
		}
	}
}

// TestRefusedRows checks that a mistake of the table stops the gateway.
func TestRefusedRows(t *testing.T) {
	t.Parallel()
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, op := range map[string]operation{
		"no rule":              {id: "odd", method: http.MethodGet, path: "/odd"},
		"another form on path": {id: "odd", method: http.MethodPatch, path: "/api/runs/{run_id}", rule: rule{public: true}, errors: asProblem},
	} {
		if err := s.serve(op); err == nil || !strings.Contains(err.Error(), op.id) {
			t.Errorf("serve(%s) = %v, want an error that names %s", name, err, op.id)
		}
	}
}

// TestProblemCodes checks that each code of the contract has a status that the
// contract knows, and each kind a code.
func TestProblemCodes(t *testing.T) {
	t.Parallel()
	for kind, k := range kinds {
		if !k.code.Valid() || http.StatusText(k.status) == "" {
			t.Errorf("kind %s = %d %s, want a code of the contract", kind, k.status, k.code)
		}
	}
	for code, status := range unlike {
		if !code.Valid() || status < 400 || status > 499 {
			t.Errorf("code %s = %d, want one of the contract and 4xx", code, status)
		}
	}
}
