package machine_test

import (
	"slices"
	"testing"

	"nofx.dev/shared/machine"
)

func door() *machine.Machine {
	return machine.New("door", []machine.State{"open", "closed", "walled"}, []machine.State{"walled"},
		machine.Edges{From: []machine.State{"open"}, Event: "close", To: "closed"},
		machine.Edges{From: []machine.State{"open", "closed"}, Event: "wall", To: "walled", NeedsReason: true},
		machine.Edges{From: []machine.State{"closed"}, Event: "open", To: "open", NeedsLease: true})
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		from  machine.State
		event string
		want  machine.State
	}{{"open", "close", "closed"}, {"closed", "open", "open"}, {"closed", "wall", "walled"}, {"open", "open", ""}, {"walled", "open", ""}, {"shut", "close", ""}} {
		if got, ok := door().Next(tt.from, tt.event); got != tt.want || ok != (tt.want != "") {
			t.Errorf("Next(%s, %s) = %q, %v, want %q", tt.from, tt.event, got, ok, tt.want)
		}
	}
	if !door().Terminal("walled") || door().Terminal("closed") || door().Terminal("shut") {
		t.Error("Terminal() is true of other states than walled")
	}
}

func TestTransitions(t *testing.T) {
	t.Parallel()
	want := []machine.Transition{
		{"door", "closed", "open", "open", true, false},
		{"door", "closed", "wall", "walled", false, true},
		{"door", "open", "close", "closed", false, false},
		{"door", "open", "wall", "walled", false, true},
	}
	if got := door().Transitions(); !slices.Equal(got, want) {
		t.Errorf("Transitions() = %v, want %v", got, want)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	states := []machine.State{"a", "b"}
	for name, edges := range map[string][]machine.Edges{
		"an unknown state to leave": {{From: []machine.State{"c"}, Event: "e", To: "a"}},
		"an unknown state to reach": {{From: []machine.State{"a"}, Event: "e", To: "c"}},
		"an event twice":            {{From: []machine.State{"a"}, Event: "e", To: "b"}, {From: []machine.State{"a"}, Event: "e", To: "a"}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New(%s) returns, want a panic", name)
				}
			}()
			machine.New("m", states, nil, edges...)
		}()
	}
}
