package codehost

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"nofx.dev/shared/fault"
)

// rule allows one act of a tool: the arguments that it must have, those that it may have
// beside them, and their values. A call with any other argument is not of this rule.
type rule struct {
	tool      string
	must, may values
}

// values are the arguments of a rule by name.
type values map[string]value

// value is what an argument may be.
type value struct {
	enum  []string // one of these, or
	is    func(v any) bool
	shape string // type in a schema
}

func one(of ...string) value { return value{enum: of, shape: "string"} }

func number(n int) value {
	return value{is: func(v any) bool { return v == n }, shape: "number"}
}

var (
	anyText   = value{is: func(v any) bool { _, ok := v.(string); return ok }, shape: "string"}
	positive  = value{is: func(v any) bool { n, ok := v.(int); return ok && n > 0 }, shape: "number"}
	positive8 = value{is: func(v any) bool { n, ok := v.(int64); return ok && n > 0 }, shape: "number"}
	commit    = matches(`^[0-9a-f]{12,64}$`)
	filePath  = matches(`^[^/\x00][^\x00]*$`)
	boolean   = value{is: func(v any) bool { _, ok := v.(bool); return ok }, shape: "boolean"}
)

func matches(pattern string) value {
	re := regexp.MustCompile(pattern)
	return value{is: func(v any) bool { s, ok := v.(string); return ok && re.MatchString(s) }, shape: "string"}
}

func (v value) allows(got any) bool {
	if v.enum != nil {
		s, ok := got.(string)
		return ok && slices.Contains(v.enum, s)
	}
	return v.is(got)
}

// with returns v and the values of more.
func (v values) with(more values) values {
	all := values{}
	for _, from := range []values{v, more} {
		for name, is := range from {
			all[name] = is
		}
	}
	return all
}

// allows reports whether a call is of this rule.
func (r rule) allows(tool string, args map[string]any) bool {
	if tool != r.tool {
		return false
	}
	for name := range r.must {
		if _, given := args[name]; !given {
			return false
		}
	}
	for name, got := range args {
		v, known := r.must[name]
		if !known {
			v, known = r.may[name]
		}
		if !known || !v.allows(got) {
			return false
		}
	}
	return true
}

// schema is what is looked at of the schema of a tool's input.
type schema struct {
	Properties map[string]struct {
		Type string   `json:"type"`
		Enum []string `json:"enum"`
	} `json:"properties"`
	Required []string `json:"required"`
}

// admit reports tools that are not there, or do not take what the rules would give them.
func (s *session) admit() error {
	unknown := func(format string, args ...any) error {
		name, version := s.version()
		return fault.New(fault.Invalid, "unknown-server", "%s %s is no server that is known here: %s", name, version, fmt.Sprintf(format, args...))
	}
	for _, r := range s.rules {
		tool, there := s.tools[r.tool]
		if !there {
			return unknown("it has no tool %s", r.tool)
		}
		var takes schema
		if text, err := json.Marshal(tool.InputSchema); err != nil || json.Unmarshal(text, &takes) != nil {
			return unknown("the schema of %s cannot be read", r.tool)
		}
		for _, name := range takes.Required {
			if _, given := r.must[name]; !given {
				return unknown("%s wants %s", r.tool, name)
			}
		}
		for name, v := range r.must.with(r.may) {
			p, takesIt := takes.Properties[name]
			if !takesIt || p.Type != v.shape {
				return unknown("%s takes no %s %s", r.tool, v.shape, name)
			}
			for _, word := range v.enum {
				if p.Enum != nil && !slices.Contains(p.Enum, word) {
					return unknown("%s of %s cannot be %s", name, r.tool, word)
				}
			}
		}
	}
	return nil
}
