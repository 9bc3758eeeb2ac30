package merge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"nofx.dev/shared/fault"
)

// States merges state documents, in their order, into one: key by key and, where both
// sides have objects, within them. A key that is missing, one that is null and one of
// another type differ, and so do numbers of the same value with different digits;
// arrays are merged as a whole. base is the document that all of them come from; one of
// no bytes is empty.
//
// With conflicts there is no document; they are those of the first side that has any
// with the sides before it, by pointer. More than 10,000 of them are fault.Conflict
// (too-many-conflicts).
func States(base []byte, sides ...[]byte) (doc []byte, conflicts []Conflict, err error) {
	if doc = base; len(base) == 0 {
		doc = []byte("{}")
	}
	for i, side := range sides {
		if i == 0 {
			doc = side
			continue
		}
		if doc, conflicts, err = StatesBy(Rules{}, base, doc, side); err != nil || len(conflicts) > 0 {
			return nil, conflicts, err
		}
	}
	object, err := decode(doc)
	if err != nil {
		return nil, nil, err
	}
	doc, err = encode(object)
	return doc, nil, err
}

// StatesBy merges two state documents as States does, by rules. It returns the document as
// well when the rules decide all conflicts, which are returned all the same.
func StatesBy(rules Rules, base, ours, theirs []byte) (doc []byte, conflicts []Conflict, err error) {
	docs := []map[string]any{{}, nil, nil}
	for i, raw := range [][]byte{base, ours, theirs} {
		if i == 0 && len(raw) == 0 {
			continue
		}
		if docs[i], err = decode(raw); err != nil {
			return nil, nil, err
		}
	}
	if rules.Gates != nil {
		keepRecords(rules.Gates, docs[0], docs[1], docs[2])
	}
	m := &states{rules: rules}
	merged := m.value("", docs[0], docs[1], docs[2])
	if len(m.conflicts) > MaxConflicts {
		return nil, nil, TooMany("keys")
	}
	slices.SortFunc(m.conflicts, func(a, b Conflict) int { return strings.Compare(a.Pointer, b.Pointer) })
	if m.open > 0 {
		return nil, m.conflicts, nil
	}
	object, ok := merged.(map[string]any)
	if !ok {
		return nil, nil, fault.New(fault.Invalid, "invalid-field", "the merged state is not an object")
	}
	doc, err = encode(object)
	return doc, m.conflicts, err
}

// keepRecords lets the records of steps that are facts of ours stay as they are: those of
// gates, whose verdicts are about another tree, and those of steps that ours has not begun or
// brought to success. Which attempt it was, and its state, is a fact of ours for all.
func keepRecords(gate func(string) bool, base, ours, theirs map[string]any) {
	own := records(ours)
	for _, doc := range []map[string]any{base, theirs} {
		others := records(doc)
		for name := range others {
			mine, known := own[name].(map[string]any)
			switch {
			case !known:
				delete(others, name)
			case gate(name) || mine["state"] != "succeeded":
				others[name] = own[name]
			}
		}
	}
	were, others := records(base), records(theirs)
	for name, record := range own {
		mine, _ := record.(map[string]any)
		was, _ := were[name].(map[string]any)
		if theirs, ok := others[name].(map[string]any); ok && mine != nil && !reflect.DeepEqual(mine, was) {
			for _, fact := range []string{"state", "attempt"} {
				theirs[fact] = mine[fact]
			}
		}
	}
}

// records returns the records of a document's steps; changes of it are changes of the
// document.
func records(doc map[string]any) map[string]any {
	all, _ := doc["steps"].(map[string]any)
	return all
}

// Union merges state documents without their base, and reports whether it could: the
// steps that several of them know must be the same in these, and everything else the
// same in all. Nothing takes a step out of a state, so that one which is not in all of
// them was added to the others.
func Union(sides ...[]byte) (doc []byte, ok bool, err error) {
	if len(sides) == 1 {
		return sides[0], true, nil
	}
	all := map[string]json.RawMessage{}
	steps := map[string]json.RawMessage{}
	for i, side := range sides {
		var parts, own map[string]json.RawMessage
		if err := json.Unmarshal(side, &parts); err != nil {
			return nil, false, fmt.Errorf("state document: %w", err)
		}
		if raw, ok := parts["steps"]; ok {
			if err := json.Unmarshal(raw, &own); err != nil {
				return nil, false, fmt.Errorf("steps of a state document: %w", err)
			}
		}
		delete(parts, "steps")
		if i == 0 {
			all = parts
		} else if !maps.EqualFunc(all, parts, sameBytes) {
			return nil, false, nil
		}
		for name, step := range own {
			if known, ok := steps[name]; ok && !bytes.Equal(known, step) {
				return nil, false, nil
			}
			steps[name] = step
		}
	}
	raw, err := marshal(steps)
	if err != nil {
		return nil, false, fmt.Errorf("encode state document: %w", err)
	}
	all["steps"] = raw
	doc, err = marshal(all)
	return doc, err == nil, err
}

func sameBytes(a, b json.RawMessage) bool { return bytes.Equal(a, b) }

// states is one merge of two documents on its way.
type states struct {
	rules     Rules
	conflicts []Conflict
	open      int // those of them that nothing is decided about
}

// absent stands for the value of a key that an object does not have.
type absent struct{}

// value merges what two sides have at a pointer.
func (m *states) value(at string, base, ours, theirs any) any {
	switch {
	case reflect.DeepEqual(ours, theirs), reflect.DeepEqual(base, theirs):
		return ours
	case reflect.DeepEqual(base, ours):
		return theirs
	}
	o, ourObject := ours.(map[string]any)
	t, theirObject := theirs.(map[string]any)
	b, wasObject := base.(map[string]any)
	if ourObject && theirObject && (wasObject || base == absent{} && !m.rules.Strict) {
		return m.object(at, b, o, t)
	}
	if array, ok := m.array(at, base, ours, theirs); ok {
		return array
	}
	kind := Content
	switch {
	case ours == absent{} || theirs == absent{}:
		kind = Deleted
	case typeOf(ours) != typeOf(theirs):
		kind = Type
	case base == absent{}:
		kind = Added
	}
	return m.conflict(Conflict{Pointer: at, Kind: kind}, base, ours, theirs)
}

// conflict adds a conflict and returns what is decided to be there instead.
func (m *states) conflict(c Conflict, base, ours, theirs any) any {
	if m.rules.Values {
		c.Base, c.Ours, c.Theirs = jsonOf(base), jsonOf(ours), jsonOf(theirs)
	}
	m.conflicts = append(m.conflicts, c)
	var take Take
	decided := false
	if m.rules.Takes != nil {
		take, decided = m.rules.Takes(c)
	}
	if decided {
		switch take.Side {
		case Ours:
			return ours
		case Theirs:
			return theirs
		case Base:
			return base
		case Given:
			if v, err := decodeValue(take.JSON); err == nil {
				return v
			}
		}
	}
	m.open++
	return ours
}

// jsonOf returns a value for people to read.
func jsonOf(v any) *Value {
	if v == (absent{}) {
		return nil
	}
	if ref, ok := v.(reference); ok {
		v = map[string]any{outputsRef: ref.digest}
	}
	raw, err := marshal(v)
	if err != nil {
		return nil // it was read from JSON
	}
	return &Value{JSON: raw}
}

func (m *states) object(at string, base, ours, theirs map[string]any) any {
	keys := map[string]bool{}
	for _, side := range []map[string]any{base, ours, theirs} {
		for k := range side {
			keys[k] = true
		}
	}
	result := map[string]any{}
	for k := range keys {
		if v := m.value(at+"/"+escape.Replace(k), member(base, k), member(ours, k), member(theirs, k)); v != (absent{}) {
			result[k] = v
		}
	}
	return result
}

// escape writes a key as a part of a JSON pointer (RFC 6901).
var escape = strings.NewReplacer("~", "~0", "/", "~1")

func member(object map[string]any, key string) any {
	if v, ok := object[key]; ok {
		return v
	}
	return absent{}
}

// typeOf returns the JSON type of a value. Outputs by reference are an object.
func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		return "number"
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}

// reference is the digest of outputs that are not in the document. While documents are
// merged it stands in the place of the outputs, so that both forms are one value.
type reference struct{ digest any }

const outputs, outputsRef = "outputs", "outputs_ref"

// decode reads a document.
func decode(doc []byte) (map[string]any, error) {
	v, err := decodeValue(doc)
	object, ok := v.(map[string]any)
	if err == nil && !ok {
		err = errors.New("not an object")
	}
	if err != nil {
		return nil, fmt.Errorf("state document: %w", err)
	}
	for step := range stepsOf(object) {
		if digest, ok := step[outputsRef]; ok {
			delete(step, outputsRef)
			step[outputs] = reference{digest}
		}
	}
	return object, nil
}

// decodeValue reads one JSON value, numbers with their digits.
func decodeValue(raw []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, more := dec.Token(); more != io.EOF {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

// encode writes a document with its keys sorted, no spaces and its numbers as they were.
func encode(object map[string]any) ([]byte, error) {
	for step := range stepsOf(object) {
		if ref, ok := step[outputs].(reference); ok {
			delete(step, outputs)
			step[outputsRef] = ref.digest
		}
	}
	doc, err := marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode state document: %w", err)
	}
	return doc, nil
}

// stepsOf goes through the records of a document's steps.
func stepsOf(doc map[string]any) func(yield func(map[string]any) bool) {
	return func(yield func(map[string]any) bool) {
		all, _ := doc["steps"].(map[string]any)
		for _, s := range all {
			if step, ok := s.(map[string]any); ok && !yield(step) {
				return
			}
		}
	}
}

// marshal does what json.Marshal does, without its escapes for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// TooMany returns the error of a merge with too many conflicts of something.
func TooMany(what string) error {
	return fault.New(fault.Conflict, "too-many-conflicts", "more than %d %s conflict", MaxConflicts, what)
}
