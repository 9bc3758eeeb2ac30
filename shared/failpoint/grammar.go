package failpoint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// action is what one point does, and how often.
type action struct {
	verb        string        // one of verbs
	sleep       time.Duration // for sleep
	probability float64       // 0 to 1
}

var verbs = []string{"kill", "stop", "panic", "error", "sleep"}

// parse reads name=action[:probability] terms, separated by commas.
func parse(spec string) (map[string]action, error) {
	points := map[string]action{}
	for term := range strings.SplitSeq(spec, ",") {
		alias, rest, ok := strings.Cut(strings.TrimSpace(term), "=")
		if !ok {
			return nil, fmt.Errorf("%q: want name=action[:probability]", term)
		}
		name, err := resolve(alias)
		if err != nil {
			return nil, err
		}
		if _, twice := points[name]; twice {
			return nil, fmt.Errorf("%s is given twice", name)
		}
		if points[name], err = parseAction(rest); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return points, nil
}

// resolve turns a point's name or its window's number into the name.
func resolve(alias string) (string, error) {
	if slices.Contains(names, alias) {
		return alias, nil
	}
	for i, name := range names[:windows] {
		if alias == "w"+strconv.Itoa(i+1) {
			return name, nil
		}
	}
	return "", fmt.Errorf("unknown name %q: want one of %s, or w1 to w%d", alias, strings.Join(names, ", "), windows)
}

func parseAction(s string) (action, error) {
	do, chance, given := strings.Cut(s, ":")
	a := action{verb: do, probability: 1}
	if given {
		p, err := strconv.ParseFloat(chance, 64)
		if err != nil || !(p >= 0 && p <= 1) { // the negation also refuses NaN
			return action{}, fmt.Errorf("probability %q: want a number from 0 to 1", chance)
		}
		a.probability = p
	}
	if arg, ok := strings.CutPrefix(do, "sleep("); ok {
		arg, closed := strings.CutSuffix(arg, ")")
		d, err := time.ParseDuration(arg)
		if !closed || err != nil || d < 0 {
			return action{}, fmt.Errorf("%q: want sleep(duration), as in sleep(8s)", do)
		}
		a.verb, a.sleep = "sleep", d
		return a, nil
	}
	if do == "sleep" || !slices.Contains(verbs, do) {
		return action{}, fmt.Errorf("unknown action %q: want one of %s(duration)", do, strings.Join(verbs, ", "))
	}
	return a, nil
}
