package run

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// StateSchema describes a part of the state document of a plan's runs, in the few words of
// JSON Schema that the merge of runs reads. Nil describes nothing.
type StateSchema struct {
	Title                string                  `json:"title,omitempty"`
	Description          string                  `json:"description,omitempty"`
	Type                 string                  `json:"type,omitempty"`
	Properties           map[string]*StateSchema `json:"properties,omitempty"`
	AdditionalProperties *StateSchema            `json:"additionalProperties,omitempty"` // of all other members
	Merge                string                  `json:"x-merge,omitempty"`              // of an array: append, set or byKey:<member>
}

// ArrayMerge returns how the array at a JSON pointer into the document is merged when both
// sides of a merge changed it; "" is not at all.
func (s *StateSchema) ArrayMerge(pointer string) string {
	for token := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if s == nil {
			return ""
		}
		member, ok := s.Properties[unescape.Replace(token)]
		if !ok {
			member = s.AdditionalProperties
		}
		s = member
	}
	if s == nil {
		return ""
	}
	return s.Merge
}

// unescape reads a part of a JSON pointer (RFC 6901).
var unescape = strings.NewReplacer("~1", "/", "~0", "~")

var (
	arrayMerge = regexp.MustCompile(`^(append|set|byKey:.{1,128})$`)
	jsonTypes  = []string{"", "null", "boolean", "object", "array", "number", "integer", "string"}
)

// stateSchema checks the schema of the state document, whose members are vars and steps.
func (c *checker) stateSchema(at string, s *StateSchema) {
	if s == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if name != "vars" && name != "steps" {
			c.add(at+"/properties/"+pointerToken(name), "the members of a state document are vars and steps")
		}
	}
	if s.AdditionalProperties != nil {
		c.add(at+"/additionalProperties", "the members of a state document are vars and steps")
	}
	c.schema(at, s)
}

func (c *checker) schema(at string, s *StateSchema) {
	if s == nil {
		c.add(at, "must be an object")
		return
	}
	c.text(at+"/title", s.Title, 0, MaxGoal)
	c.text(at+"/description", s.Description, 0, MaxGoal)
	if !slices.Contains(jsonTypes, s.Type) {
		c.add(at+"/type", "must be null, boolean, object, array, number, integer or string")
	}
	switch {
	case s.Merge == "":
	case !arrayMerge.MatchString(s.Merge):
		c.add(at+"/x-merge", "must be append, set or byKey:<member>")
	case s.Type != "array" && s.Type != "" || s.Properties != nil || s.AdditionalProperties != nil:
		c.add(at+"/x-merge", "only an array is merged by it")
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		member := at + "/properties/" + pointerToken(name)
		c.text(member, name, 0, MaxGoal)
		c.schema(member, s.Properties[name])
	}
	if s.AdditionalProperties != nil {
		c.schema(at+"/additionalProperties", s.AdditionalProperties)
	}
}
