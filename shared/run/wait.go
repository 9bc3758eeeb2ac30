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

// waits checks that each wait which a step declares can end before the deadline,
// however fast all else is: after the sleeps that lead up to it, of which the longest
// path counts. Of a chain that is too long the first to go beyond is named.
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

// declaredWait returns how long a step says that it waits, and by which input. A step that
// does not say, or not properly, waits for 0 s.
func declaredWait(s PlanStep) (input string, wait float64) {
	if t, _ := ToolOf(s.Tool); t.wait != nil {
		return t.wait(s.Inputs)
	}
	return "", 0
}

// declared makes a row's wait of what says when inputs of type T expire, in seconds.
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
