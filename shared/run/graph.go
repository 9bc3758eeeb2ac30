package run

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"nofx.dev/shared/fault"
)

// dependencies checks that every depends_on names another step and that the
// steps form no cycle, and reports whether both are so.
func (c *checker) dependencies(steps []PlanStep, index map[string]int) (acyclic bool) {
	known, edges := true, 0
	for i, s := range steps {
		edges += len(s.DependsOn)
		seen := make(map[string]bool, len(s.DependsOn))
		for j, name := range s.DependsOn {
			at := fmt.Sprintf("/plan/steps/%d/depends_on/%d", i, j)
			if _, ok := index[name]; !ok {
				known = false
				c.noStep(at, name)
			}
			if seen[name] {
				c.add(at, fmt.Sprintf("%q is named twice", name))
			}
			seen[name] = true
		}
	}
	if edges > MaxEdges {
		c.add("/plan/steps", fmt.Sprintf("%d dependencies; a plan has at most %d", edges, MaxEdges))
	}
	// If two steps have one name, or a dependency cannot be read, the order is unknown.
	if !known || len(index) < len(steps) || c.misfitAt(ordering) {
		return false
	}
	cycle := findCycle(steps, index)
	if cycle != nil {
		at := fmt.Sprintf("/plan/steps/%d/depends_on", index[cycle[0]])
		c.add(at, "the steps wait for each other: "+strings.Join(cycle, " → "))
	}
	return cycle == nil
}

// naming matches the places of a plan that name its steps; ordering matches the places that
// order them.
var (
	naming   = regexp.MustCompile(`^(/plan(/steps(/\d+(/name)?)?)?)?$`)
	ordering = regexp.MustCompile(`^(/plan(/steps(/\d+(/(name|depends_on(/\d+)?))?)?)?)?$`)
)

// suggestionsMost is the maximum number of searches for the nearest step name in one plan.
const suggestionsMost = 10

func (c *checker) misfitAt(place *regexp.Regexp) bool {
	return slices.ContainsFunc(c.misfits, func(m fault.Field) bool { return place.MatchString(m.Pointer) })
}

// noStep adds the error that no step has a name, unless some names could not be read.
func (c *checker) noStep(at, name string) {
	if c.unnamed {
		return
	}
	detail := fmt.Sprintf("no step is named %.80q", name)
	if c.suggested++; c.suggested <= suggestionsMost {
		names := make([]string, len(c.steps))
		for i, s := range c.steps {
			names[i] = s.Name
		}
		detail += suggestion(name, names, "")
	}
	c.add(at, detail)
}

// findCycle returns the names along one cycle, its first repeated at the end, or nil.
func findCycle(steps []PlanStep, index map[string]int) []string {
	const white, grey, black = 0, 1, 2
	colour := make([]int, len(steps))
	var path []string
	var visit func(i int) []string
	visit = func(i int) []string {
		colour[i] = grey
		path = append(path, steps[i].Name)
		for _, name := range steps[i].DependsOn {
			switch j := index[name]; colour[j] {
			case grey:
				return append(slices.Clone(path[slices.Index(path, name):]), name)
			case white:
				if cycle := visit(j); cycle != nil {
					return cycle
				}
			}
		}
		colour[i] = black
		path = path[:len(path)-1]
		return nil
	}
	for i := range steps {
		if colour[i] == white {
			if cycle := visit(i); cycle != nil {
				return cycle
			}
		}
	}
	return nil
}
