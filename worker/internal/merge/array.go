package merge

import (
	"encoding/json"
	"reflect"
	"strings"
)

// The ways to merge an array that both sides changed.
const (
	appendArray = "append" // both sides may add elements at the end: ours come first
	setArray    = "set"    // the order means nothing, and neither do repetitions
	byKeyArray  = "byKey:" // objects, told apart by the member that follows
)

// array merges an array that both sides changed, by the rule for its pointer, and reports
// whether there is a rule and the sides fit together by it.
func (m *states) array(at string, base, ours, theirs any) (merged []any, ok bool) {
	if m.rules.Arrays == nil || m.rules.Strict {
		return nil, false
	}
	b, wasArray := base.([]any)
	o, ourArray := ours.([]any)
	t, theirArray := theirs.([]any)
	if !ourArray || !theirArray || !wasArray && base != (absent{}) {
		return nil, false
	}
	switch rule := m.rules.Arrays(at); {
	case rule == appendArray:
		if !begins(o, b) || !begins(t, b) {
			return nil, false
		}
		return append(append([]any{}, o...), t[len(b):]...), true
	case rule == setArray:
		return mergeSets(b, o, t), true
	case strings.HasPrefix(rule, byKeyArray):
		return m.byKey(at, strings.TrimPrefix(rule, byKeyArray), b, o, t)
	}
	return nil, false
}

// begins reports whether an array is another one with elements after it.
func begins(array, beginning []any) bool {
	return len(array) >= len(beginning) && reflect.DeepEqual(append([]any{}, array[:len(beginning)]...), append([]any{}, beginning...))
}

// mergeSets returns the elements of ours that theirs did not remove, and then those that
// theirs added.
func mergeSets(base, ours, theirs []any) []any {
	b, t := keysOf(base), keysOf(theirs)
	merged := []any{}
	in := map[string]bool{}
	add := func(v any, wanted bool) {
		if k := keyOf(v); wanted && !in[k] {
			in[k] = true
			merged = append(merged, v)
		}
	}
	for _, v := range ours {
		add(v, t[keyOf(v)] || !b[keyOf(v)])
	}
	for _, v := range theirs {
		add(v, !b[keyOf(v)])
	}
	return merged
}

// byKey merges arrays of objects as if they were one object each, by their keys. The
// elements keep the order of ours, those that theirs added come last. Elements that do not
// fit together make the array as a whole a conflict, as do elements without a key and two
// with the same.
func (m *states) byKey(at, id string, base, ours, theirs []any) (merged []any, ok bool) {
	var objects [3]map[string]any
	var orders [3][]string
	for i, side := range [][]any{base, ours, theirs} {
		objects[i] = map[string]any{}
		for _, v := range side {
			element, isObject := v.(map[string]any)
			key, has := element[id]
			k := keyOf(key)
			if _, twice := objects[i][k]; !isObject || !has || twice {
				return nil, false
			}
			objects[i][k] = v
			orders[i] = append(orders[i], k)
		}
	}
	inner := &states{rules: Rules{Arrays: m.rules.Arrays}}
	result, _ := inner.object(at, objects[0], objects[1], objects[2]).(map[string]any)
	if len(inner.conflicts) > 0 {
		return nil, false
	}
	merged = []any{}
	for _, k := range append(orders[1], orders[2]...) {
		if v, ok := result[k]; ok {
			merged = append(merged, v)
			delete(result, k)
		}
	}
	return merged, true
}

func keysOf(array []any) map[string]bool {
	keys := map[string]bool{}
	for _, v := range array {
		keys[keyOf(v)] = true
	}
	return keys
}

// keyOf returns a text that is the same for the same value and for no other. Keys of
// objects are sorted by the encoder, and numbers keep their digits.
func keyOf(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return "" // it was read from JSON
	}
	return string(raw)
}
