package run

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"nofx.dev/shared/fault"
)

// A template is ${{ steps.<name>.outputs.<key> }} in a string of a step's inputs. It stands
// for an output of an earlier step. The gateway checks that there is such a step
// ([Plan.Normalise]); the worker puts the value in its place when the step has been claimed
// ([Resolve]). In any input $${{ stands for the text ${{, and begins no template.
const (
	templateBegin, templateEnd = "${{", "}}"
	templateShape              = "${{ steps.<name>.outputs.<key> }}"
	plainBegin                 = "$" + templateBegin
)

// maxResolvedBytes is the maximum length of the strings of a step's inputs with the values
// of their templates.
const maxResolvedBytes = 1 << 20

// The name ends at the first .outputs. that can end it.
var templateForm = regexp.MustCompile(`^\s*steps\.([a-z0-9][a-z0-9_.-]{0,63}?)\.outputs\.([A-Za-z_][A-Za-z0-9_.-]{0,255})\s*$`)

// part is a piece of a string: text as it stands or, where step is set, a
// template for that step's output.
type part struct{ text, step, key string }

// parts splits s into text and templates. The problem says why s cannot be split, or is "".
func parts(s string) (list []part, problem string) {
	for s != "" {
		text, rest, found := strings.Cut(s, templateBegin)
		if found && strings.HasSuffix(text, "$") {
			list, s = append(list, part{text: text + templateBegin[1:]}), rest
			continue
		}
		if text != "" {
			list = append(list, part{text: text})
		}
		if !found {
			break
		}
		inner, after, closed := strings.Cut(rest, templateEnd)
		if !closed {
			return nil, "contains a template that does not end: " + templateShape
		}
		m := templateForm.FindStringSubmatch(inner)
		if m == nil {
			return nil, fmt.Sprintf("contains the template %.80q; a template has the form %s", templateBegin+inner+templateEnd, templateShape)
		}
		list = append(list, part{step: m[1], key: m[2]})
		s = after
	}
	return list, ""
}

// Resolve returns the inputs of a step with each template replaced by the value it stands
// for: a string as it is, anything else as JSON. Inserted values, and the text that $${{
// leaves, are not templates again. outputs gives the outputs of a step, an object or nil;
// its errors are returned. A missing output, or resolved inputs that break a rule of their
// tool, are fault.Invalid. Inputs without a template are returned unchanged.
//
// A key is looked for among the outputs, and then among what the step's code
// wrote to $NOFX_OUTPUT, which is the output named outputs. Dots lead into
// objects, and by number into lists. Of an answer with a body in JSON, json is what
// that body says.
func Resolve(tool string, inputs []byte, outputs func(step string) ([]byte, error)) ([]byte, error) {
	if !bytes.Contains(inputs, []byte(templateBegin)) && !bytes.Contains(inputs, []byte(`\u`)) {
		return inputs, nil
	}
	known := map[string]jsontext.Value{}
	value := func(p part) (string, error) {
		doc, ok := known[p.step]
		if !ok {
			raw, err := outputs(p.step)
			if err != nil {
				return "", err
			}
			doc = raw
			known[p.step] = doc
		}
		v, ok := member(doc, p.key)
		if !ok {
			own, _ := member(doc, "outputs")
			v, ok = member(own, p.key)
		}
		if body, answered := member(doc, "body"); !ok && answered && firstOf(p.key) == "json" {
			said, problem := jsonBody(doc, body)
			if problem != "" {
				return "", fault.New(fault.Invalid, "invalid-plan", "the body of step %s %s, so it has no output %q", p.step, problem, p.key)
			}
			v, ok = member(said, p.key)
		}
		if !ok {
			return "", fault.New(fault.Invalid, "invalid-plan", "step %s has no output %q", p.step, p.key)
		}
		return written(v)
	}
	replaced, size := false, 0
	resolved, err := mapTexts(inputs, func(pointer, s string) (string, error) {
		if untemplated(tool, pointer) {
			plain := strings.ReplaceAll(s, plainBegin, templateBegin)
			replaced = replaced || plain != s
			return plain, nil
		}
		if !strings.Contains(s, templateBegin) {
			return s, nil
		}
		list, problem := parts(s)
		if problem != "" {
			return "", invalidInput(pointer, problem)
		}
		replaced = true
		var b strings.Builder
		for _, p := range list {
			text := p.text
			if p.step != "" {
				var err error
				if text, err = value(p); err != nil {
					if e, ok := err.(*fault.Error); ok && e.Kind == fault.Invalid {
						err = invalidInput(pointer, e.Detail)
					}
					return "", err
				}
			}
			if size += len(text); size > maxResolvedBytes {
				return "", invalidInput(pointer, fmt.Sprintf("with the values of their templates, the inputs are longer than %d bytes", maxResolvedBytes))
			}
			b.WriteString(text)
		}
		return b.String(), nil
	})
	if err != nil || !replaced {
		return inputs, err
	}
	if wrong := checkInputs(tool, resolved, false); len(wrong) > 0 {
		return nil, invalidInput(wrong[0].Pointer, wrong[0].Detail)
	}
	return resolved, nil
}

func invalidInput(pointer, detail string) error {
	e := fault.New(fault.Invalid, "invalid-plan", "inputs%s: %s", pointer, detail)
	e.Fields = []fault.Field{{Pointer: pointer, Detail: detail}}
	return e
}

// untemplated reports whether a template is refused in the input at pointer.
func untemplated(tool, pointer string) bool {
	t, _ := ToolOf(tool)
	return t.Text != "" && pointer == t.Text
}

// jsonBody returns an object whose member json is the decoded body of a response. The
// problem says why the body cannot be decoded, or is "".
func jsonBody(answer, body jsontext.Value) (object jsontext.Value, problem string) {
	text, err := written(body)
	if _, cut := member(answer, "truncated"); cut {
		return nil, "is not complete"
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), new(jsontext.Value))
	}
	syntax, _ := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case err == nil:
	case errors.Is(err, jsontext.ErrDuplicateName):
		return nil, fmt.Sprintf("has the member %.80s twice", syntax.JSONPointer)
	case syntax != nil && halfPair(jsontext.Value(text)):
		return nil, fmt.Sprintf("contains half a surrogate pair at %.80s", syntax.JSONPointer)
	default:
		return nil, "is not JSON"
	}
	return jsontext.Value(`{"json":` + text + `}`), ""
}

// member returns the value at key in an object: the member with exactly that name, or the
// value along the dots of the name. In a list, the key begins with the index of an item,
// from 0.
func member(of jsontext.Value, key string) (jsontext.Value, bool) {
	switch of.Kind() {
	case jsontext.KindBeginArray:
		return item(of, key)
	case jsontext.KindBeginObject:
	default:
		return nil, false
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(of, &members); err != nil {
		return nil, false
	}
	if v, ok := members[key]; ok {
		return v, true
	}
	for i, c := range []byte(key) {
		if c != '.' {
			continue
		}
		if v, ok := member(members[key[:i]], key[i+1:]); ok {
			return v, true
		}
	}
	return nil, false
}

func item(of jsontext.Value, key string) (jsontext.Value, bool) {
	place, rest, deeper := strings.Cut(key, ".")
	var items []jsontext.Value
	i, err := strconv.Atoi(place)
	if err != nil || strconv.Itoa(i) != place || json.Unmarshal(of, &items) != nil || i < 0 || i >= len(items) {
		return nil, false
	}
	if deeper {
		return member(items[i], rest)
	}
	return items[i], true
}

// written returns a value as it is put into a string.
func written(v jsontext.Value) (string, error) {
	if v.Kind() == '"' {
		var s string
		err := json.Unmarshal(v, &s)
		return s, err
	}
	v = v.Clone()
	if err := v.Compact(); err != nil {
		return "", err
	}
	return string(v), nil
}

// mapTexts returns raw, a JSON value, with each string replaced by the result of f; names
// of members stay unchanged. pointer is the string's place.
func mapTexts(raw []byte, f func(pointer, s string) (string, error)) ([]byte, error) {
	var out bytes.Buffer
	dec, enc := jsontext.NewDecoder(bytes.NewReader(raw)), jsontext.NewEncoder(&out)
	for depth := -1; depth != 0; depth = dec.StackDepth() {
		token, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		kind, n := dec.StackIndex(dec.StackDepth())
		if name := kind == '{' && n%2 == 1; token.Kind() == '"' && !name {
			s, err := f(string(dec.StackPointer()), token.String())
			if err != nil {
				return nil, err
			}
			token = jsontext.String(s)
		}
		if err := enc.WriteToken(token); err != nil {
			return nil, err
		}
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// reference is a template of a plan: its place, and the step and the output that it names.
type reference struct{ at, step, key string }

// references returns the templates in the inputs of a step and adds an error for each
// malformed one.
func (c *checker) references(at string, s *PlanStep) (all []reference) {
	if !KnownTool(s.Tool) || !bytes.Contains(s.Inputs, []byte(templateBegin)) && !bytes.Contains(s.Inputs, []byte(`\u`)) {
		return nil
	}
	// Inputs that are not JSON have been reported.
	_, _ = mapTexts(s.Inputs, func(pointer, text string) (string, error) {
		if untemplated(s.Tool, pointer) {
			return text, nil
		}
		list, problem := parts(text)
		if problem != "" {
			c.add(at+pointer, problem+"; "+plainBegin+" stands for a plain "+templateBegin)
		}
		for _, p := range list {
			if p.step != "" {
				all = append(all, reference{at + pointer, p.step, p.key})
			}
		}
		return text, nil
	})
	return all
}

// resolvable checks that each template names a step that comes before its own,
// and an output that such a step has. acyclic says that the steps can be ordered.
func (c *checker) resolvable(steps []PlanStep, index map[string]int, refs [][]reference, acyclic bool) {
	if !slices.ContainsFunc(refs, func(of []reference) bool { return len(of) > 0 }) {
		return
	}
	var before []*big.Int
	if acyclic {
		before = ancestors(steps, index)
	}
	for i, of := range refs {
		for _, r := range of {
			j, ok := index[r.step]
			switch {
			case !ok:
				c.noStep(r.at, r.step)
			case j == i:
				c.add(r.at, "a step cannot use its own outputs")
			case acyclic && before[i].Bit(j) == 0:
				c.add(r.at, fmt.Sprintf("step %q does not come before %q; name it in depends_on", r.step, steps[i].Name))
			default:
				if detail := noOutput(steps[j].Tool, r.key); detail != "" {
					c.add(r.at, fmt.Sprintf("step %q %s", r.step, detail))
				}
			}
		}
	}
}

// noOutput returns why a step of tool never has an output of this key, or "".
func noOutput(tool, key string) string {
	first, _, deeper := strings.Cut(key, ".")
	t, _ := ToolOf(tool)
	has, fixed := t.outputs, t.outputs != nil
	switch single := slices.Contains(has, first); {
	case !fixed, single && !deeper, slices.Contains(has, first+"."):
		return ""
	case single && tool == ToolHTTP && first == "body":
		return fmt.Sprintf("has no output %q: body is text; read a JSON response as json%s", key, strings.TrimPrefix(key, first))
	}
	names := strings.ReplaceAll(strings.Join(has, " "), ".", "")
	return fmt.Sprintf("has no output %q; the outputs of %s are [%s]", key, tool, names)
}

func firstOf(key string) string {
	first, _, _ := strings.Cut(key, ".")
	return first
}

// ancestors returns, for each step, the steps that have ended when it starts, as bits.
func ancestors(steps []PlanStep, index map[string]int) []*big.Int {
	before := make([]*big.Int, len(steps))
	var visit func(i int) *big.Int
	visit = func(i int) *big.Int {
		if before[i] == nil {
			before[i] = new(big.Int)
			for _, name := range steps[i].DependsOn {
				j := index[name]
				before[i].Or(before[i], visit(j))
				before[i].SetBit(before[i], j, 1)
			}
		}
		return before[i]
	}
	for i := range steps {
		visit(i)
	}
	return before
}
