package run_test

import "testing"

// A command that says nothing, and a run that leaves tests out, are told from those that
// only look like them.
func TestGatesThatSaySomething(t *testing.T) {
	t.Parallel()
	for name, doc := range map[string]string{
		"a comment in front":       one("gate:x", `{"command":"# unit tests\n\tgo test ./..."}`),
		"a comment behind":         one("bash", `{"script":"make # all"}`),
		"what is no comment":       one("bash", `{"script":"cat <<E\n# text\nE"}`),
		"without fail-fast":        one("gate:x", `{"command":"go test -json -failfast=false ./... > r","report":{"format":"gotest","path":"r","flaky":"pass"}}`),
		"a test of that name":      one("gate:x", `{"command":"go test -json -run TestX-failfast-y ./... > r","report":{"format":"gotest","path":"r","flaky":"pass"}}`),
		"fail-fast, flaky fails":   one("gate:x", `{"command":"go test -json -failfast ./... > r","report":{"format":"gotest","path":"r"}}`),
		"fail-fast of JUnit flaky": one("gate:x", `{"command":"mvn -failfast","report":{"format":"junit","path":"r","flaky":"pass"}}`),
	} {
		if _, err := parse(t, doc).Normalise(); err != nil {
			t.Errorf("%s: Normalise(%s) = %v, want nil", name, doc, err)
		}
	}
}
