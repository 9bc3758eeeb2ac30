package run

import (
	"fmt"
	"strconv"
)

// deadline returns the deadline_s of a plan, given or by default.
func (c *checker) deadline(given *int) *int {
	if given == nil {
		return new(int(RunDeadline.Seconds()))
	}
	if !goodDeadline(*given) {
		c.add("/plan/deadline_s", fmt.Sprintf("must be between %d and %d", int(MinRunDeadline.Seconds()), int(MaxRunDeadline.Seconds())))
	}
	return given
}

func goodDeadline(s int) bool {
	return s >= int(MinRunDeadline.Seconds()) && s <= int(MaxRunDeadline.Seconds())
}

// waits checks that each declared wait can end before the deadline, even if everything else
// takes no time. The longest path of sleeps before a wait counts. If a chain is too long,
// the error names its first step that ends after the deadline.
func (c *checker) waits(steps []PlanStep, index map[string]int, deadline float64) {
	ends := make([]float64, len(steps))
	seen := make([]bool, len(steps))
	var visit func(i int) float64
	visit = func(i int) float64 {
		if seen[i] {
			return ends[i]
		}
		seen[i] = true
		start := 0.0
		for _, name := range steps[i].DependsOn {
			start = max(start, visit(index[name]))
		}
		input, wait := declaredWait(steps[i])
		if end := start + wait; wait > 0 && start < deadline && end >= deadline {
			after := ""
			if start > 0 {
				after = fmt.Sprintf(", %s s after the run's start at the earliest,", seconds(start))
			}
			c.add(fmt.Sprintf("/plan/steps/%d/inputs/%s", i, input),
				fmt.Sprintf("a wait of %s s%s cannot end before the run's deadline; its deadline_s is %s", seconds(wait), after, seconds(deadline)))
		}
		ends[i] = start
		if steps[i].Tool == ToolSleep { // any other may end at once
			ends[i] += wait
		}
		return ends[i]
	}
	for i := range steps {
		visit(i)
	}
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', -1, 64) }

// declaredWait returns the wait that a step declares, and the input that declares it. A
// missing or malformed declaration is 0 s.
func declaredWait(s PlanStep) (input string, wait float64) {
	if t, _ := ToolOf(s.Tool); t.wait != nil {
		return t.wait(s.Inputs)
	}
	return "", 0
}

// declared returns the wait function of a row of the tool table, from a function that
// returns the wait of inputs of type T in seconds.
func declared[T any](expiry func(T) *int) func([]byte) (string, float64) {
	return func(raw []byte) (string, float64) {
		in, _ := Inputs[T](raw)
		if s := expiry(in); s != nil && *s <= int(MaxWait.Seconds()) {
			return "expires_s", float64(*s)
		}
		return "", 0
	}
}

// sleepWait returns the wait that the inputs of tool sleep declare.
func sleepWait(raw []byte) (string, float64) {
	if in, err := Inputs[SleepInputs](raw); err == nil && in.DurationS <= MaxWait.Seconds() {
		return "duration_s", in.DurationS
	}
	return "", 0
}
