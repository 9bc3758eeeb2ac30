package report

import (
	"cmp"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// sarifRules are the rules of a run, and how bad it is to break them. What a report
// leaves unsaid is looked up as §3.27.10 and §3.52.3 of SARIF say; where that finds two
// answers, the worse one holds.
type sarifRules struct {
	components []*sarifComponent       // the driver first
	byID       map[string][]*sarifRule // at most one of each component
	byGUID     map[string]*sarifRule
	overrides  []overrides // by invocation
	anyOf      overrides   // for results that do not say of which invocation they are
}

// overrides are levels that an invocation gave to rules, and to names of rules of which
// nothing else is known.
type overrides struct {
	rules map[*sarifRule]string
	names map[string]string
}

func rulesOf(run *sarifRun) *sarifRules {
	s := &sarifRules{components: []*sarifComponent{&run.Tool.Driver}, byID: map[string][]*sarifRule{}, byGUID: map[string]*sarifRule{}}
	for i := range run.Tool.Extensions {
		s.components = append(s.components, &run.Tool.Extensions[i])
	}
	for _, c := range s.components {
		for i := range c.Rules {
			s.add(c, &c.Rules[i])
		}
	}
	for _, in := range run.Invocations {
		s.overrides = append(s.overrides, s.overridesOf(in))
	}
	s.anyOf = worstOf(s.overrides)
	return s
}

// add makes r known by its names. Of rules with one name in a component, the worst is.
func (s *sarifRules) add(c *sarifComponent, r *sarifRule) {
	r.component = c
	if r.GUID != "" {
		s.byGUID[r.GUID] = r
	}
	same := s.byID[r.ID]
	switch n := len(same); {
	case n == 0 || same[n-1].component != c:
		s.byID[r.ID] = append(same, r)
	case worse(same[n-1].level(), r.level()) == r.level():
		same[n-1] = r
	}
}

func (s *sarifRules) overridesOf(in sarifInvocation) overrides {
	o := overrides{map[*sarifRule]string{}, map[string]string{}}
	for _, given := range in.Overrides {
		level := given.Configuration.level()
		found := s.find(given.Descriptor)
		for _, r := range found {
			of := level
			if given.Configuration.Level == "" { // it is about something else
				of = worse(level, r.level())
			}
			o.rules[r] = worse(o.rules[r], of)
		}
		if id := given.Descriptor.ID; len(found) == 0 && id != "" {
			o.names[id] = worse(o.names[id], level)
		}
	}
	return o
}

// worstOf returns what any of the invocations may have made of a rule. One that says nothing
// of it left it as it is.
func worstOf(all []overrides) overrides {
	worst := overrides{map[*sarifRule]string{}, map[string]string{}}
	rules, names := map[*sarifRule]int{}, map[string]int{} // how many invocations speak of them
	for _, o := range all {
		for r, level := range o.rules {
			worst.rules[r] = worse(worst.rules[r], level)
			rules[r]++
		}
		for name, level := range o.names {
			worst.names[name] = worse(worst.names[name], level)
			names[name]++
		}
	}
	for r, n := range rules {
		if n < len(all) {
			worst.rules[r] = worse(worst.rules[r], r.level())
		}
	}
	for name, n := range names {
		if n < len(all) {
			worst.names[name] = worse(worst.names[name], defaultLevel)
		}
	}
	return worst
}

// defaultLevel is that of a rule that has none.
const defaultLevel = "warning"

func (c sarifConfiguration) level() string { return cmp.Or(c.Level, defaultLevel) }

func (r *sarifRule) level() string { return r.Configuration.level() }

// worse returns the worse of two levels, where "" is none. One that SARIF does not
// have is worse than all, so that it is found.
func worse(a, b string) string {
	if a == "" || b != "" && slices.Index(levels, b) < slices.Index(levels, a) {
		return b
	}
	return a
}

// of returns the rules that a result may mean.
func (s *sarifRules) of(res *sarifResult) []*sarifRule {
	own := sarifReference{ID: res.RuleID, Index: res.RuleIndex, Component: res.Rule.Component}
	return append(s.find(own), s.find(res.Rule)...)
}

// find returns the rules that a reference may mean.
func (s *sarifRules) find(ref sarifReference) (found []*sarifRule) {
	in := s.component(ref.Component)
	if r := pick(in.Rules, ref.Index); r != nil {
		found = append(found, r)
	}
	if r := s.byGUID[ref.GUID]; r != nil {
		found = append(found, r)
	}
	for id := range leading(ref.ID) {
		named := s.byID[id]
		if i := slices.IndexFunc(named, func(r *sarifRule) bool { return r.component == in }); i >= 0 {
			named = named[i : i+1]
		}
		if len(named) > 0 {
			return append(found, named...)
		}
	}
	return found
}

// maxParts bounds how many leading parts of a name are looked up.
const maxParts = 16

// leading yields a rule's name and its leading parts, the longest first: E1/sub, E1.
func leading(id string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for n := 0; id != "" && n < maxParts && yield(id); n++ {
			id = id[:max(0, strings.LastIndexByte(id, '/'))]
		}
	}
}

// component returns the part of the tool that a reference means, by default the driver.
func (s *sarifRules) component(ref sarifComponentReference) *sarifComponent {
	if ref.Index != nil && *ref.Index >= 0 && *ref.Index < len(s.components)-1 {
		return s.components[1+*ref.Index]
	}
	for _, c := range s.components {
		if ref.GUID != "" && c.GUID == ref.GUID || ref.GUID == "" && ref.Name != "" && c.Name == ref.Name {
			return c
		}
	}
	return s.components[0]
}

// level returns how bad a result is that means one of some rules.
func (s *sarifRules) level(res *sarifResult, of []*sarifRule) (level string) {
	if res.Level != "" {
		return res.Level
	}
	if res.kind() != kinds[0] {
		return "none"
	}
	o := s.anyOf
	if i := res.Provenance.Invocation; i != nil && *i >= 0 && *i < len(s.overrides) {
		o = s.overrides[*i]
	}
	for _, r := range of {
		level = worse(level, cmp.Or(o.rules[r], r.level()))
	}
	if len(of) > 0 {
		return level
	}
	for id := range leading(cmp.Or(res.RuleID, res.Rule.ID)) {
		if level := o.names[id]; level != "" {
			return level
		}
	}
	return defaultLevel
}

// message returns what a result says, which may be a text that its rule or a part of
// the tool has.
func (s *sarifRules) message(res *sarifResult, of []*sarifRule) string {
	text := res.Message.String()
	if id := res.Message.ID; text == "" && id != "" {
		for _, r := range of {
			text = cmp.Or(text, r.Messages[id].String(), r.component.Messages[id].String())
		}
		text = cmp.Or(text, s.components[0].Messages[id].String(), id)
	}
	return filled(text, res.Message.Arguments)
}

var placeholder = regexp.MustCompile(`\{\{|\}\}|\{[0-9]{1,9}\}`)

// filled returns a message with its arguments in the places {0}, {1} and so on, or the
// beginning of a long one.
func filled(text string, arguments []string) string {
	if len(arguments) == 0 {
		return text
	}
	const limit = 64 << 10 // more than is kept of it, and than any secret
	var out strings.Builder
	write := func(s string) { out.WriteString(s[:min(len(s), limit-out.Len())]) }
	last := 0
	for _, at := range placeholder.FindAllStringIndex(text[:min(len(text), limit)], -1) {
		write(text[last:at[0]])
		last = at[1]
		match := text[at[0]:at[1]]
		if i, err := strconv.Atoi(strings.Trim(match, "{}")); err != nil {
			write(match[:1]) // {{ and }} are braces
		} else if i < len(arguments) {
			write(arguments[i])
		} else {
			write(match)
		}
	}
	write(text[last:])
	return out.String()
}
