package system

import (
	"testing"

	"nofx.dev/shared/run"
)

// Every system tool of the tool table has a handler, and no other tool has one here.
func TestHandlers(t *testing.T) {
	t.Parallel()
	system := map[string]bool{}
	for _, row := range run.Tools() {
		if system[row.Name] = row.System; row.System && handlers[row.Name] == nil {
			t.Errorf("tool %s has no handler", row.Name)
		}
	}
	for name := range handlers {
		if !system[name] {
			t.Errorf("the handler of %s has no row with System in the tool table", name)
		}
	}
}
