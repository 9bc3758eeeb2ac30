package diff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"nofx.dev/shared/jsonpatch"
)

// maxItems is the size of the largest array whose items are compared each with each.
const maxItems = 2_000

// change is an operation on a state document with its values decoded.
type change struct {
	op, path   string
	value, old any // of add and replace; of remove and replace
}

// between returns the operations that make one value of another. Each applies to what those
// before it left. Numbers of other digits differ.
func between(from, to any) (list []change) {
	d := &states{}
	d.value("", from, to)
	return d.list
}

type states struct{ list []change }

func (d *states) value(at string, from, to any) {
	if reflect.DeepEqual(from, to) {
		return
	}
	if f, ok := from.(map[string]any); ok {
		if t, ok := to.(map[string]any); ok {
			d.object(at, f, t)
			return
		}
	}
	if f, ok := from.([]any); ok {
		if t, ok := to.([]any); ok && d.array(at, f, t) {
			return
		}
	}
	d.list = append(d.list, change{"replace", at, to, from})
}

func (d *states) object(at string, from, to map[string]any) {
	keys := slices.Collect(maps.Keys(from))
	for k := range to {
		if _, ok := from[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		f, was := from[k]
		t, is := to[k]
		p := jsonpatch.Pointer(at, k)
		switch {
		case !was:
			d.list = append(d.list, change{op: "add", path: p, value: t})
		case !is:
			d.list = append(d.list, change{op: "remove", path: p, old: f})
		default:
			d.value(p, f, t)
		}
	}
}

// array reports false for arrays that are to be replaced as a whole.
func (d *states) array(at string, from, to []any) bool {
	start, end := 0, 0
	for start < len(from) && start < len(to) && reflect.DeepEqual(from[start], to[start]) {
		start++
	}
	for end < len(from)-start && end < len(to)-start && reflect.DeepEqual(from[len(from)-1-end], to[len(to)-1-end]) {
		end++
	}
	f, t := from[start:len(from)-end], to[start:len(to)-end]
	list := []edit{{0, len(f), 0, len(t)}}
	if len(f) > 0 && len(t) > 0 {
		if len(from) > maxItems || len(to) > maxItems {
			return false
		}
		x, y, n := numbered(texts(f), texts(t))
		list = edits(x, y, n)
	}
	for _, e := range list {
		same := min(e.a1-e.a0, e.b1-e.b0) // items that one takes the place of another
		for i := range same {
			d.value(index(at, start+e.b0+i), f[e.a0+i], t[e.b0+i])
		}
		for i := e.a0 + same; i < e.a1; i++ {
			d.list = append(d.list, change{op: "remove", path: index(at, start+e.b0+same), old: f[i]})
		}
		for i := e.b0 + same; i < e.b1; i++ {
			d.list = append(d.list, change{op: "add", path: index(at, start+i), value: t[i]})
		}
	}
	return true
}

func index(at string, i int) string { return at + "/" + strconv.Itoa(i) }

// texts returns values as text, equal ones as the same.
func texts(values []any) []string {
	list := make([]string, len(values))
	for i, v := range values {
		b, err := marshal(v)
		if err != nil {
			panic(err) // decoded JSON
		}
		list[i] = string(b)
	}
	return list
}

// operations returns changes as a patch.
func operations(list []change) ([]jsonpatch.Operation, error) {
	ops := make([]jsonpatch.Operation, len(list))
	for i, c := range list {
		op := jsonpatch.Operation{Op: c.op, Path: c.path}
		var err error
		if c.op != "remove" {
			if op.Value, err = marshal(c.value); err != nil {
				return nil, err
			}
		}
		if c.op != "add" {
			if op.Old, err = marshal(c.old); err != nil {
				return nil, err
			}
		}
		ops[i] = op
	}
	return ops, nil
}

// checked returns list, if its operations make to of the document from. Otherwise it
// returns the one that replaces the document, and true.
func checked(list []change, doc []byte, from, to any) ([]change, bool, error) {
	ops, err := operations(list)
	if err != nil {
		return nil, false, err
	}
	if got, err := jsonpatch.Apply(doc, ops); err == nil {
		if v, err := decode(got); err == nil && reflect.DeepEqual(v, to) {
			return list, false, nil
		}
	}
	return []change{{"replace", "", to, from}}, true, nil
}

// masked returns changes with secrets masked.
func masked(list []change, r Redactor) []change {
	if r == nil {
		return list
	}
	list = slices.Clone(list)
	for i, c := range list {
		name := c.path[strings.LastIndexByte(c.path, '/')+1:]
		list[i] = change{c.op, r.String(c.path), maskedValue(name, c.value, r), maskedValue(name, c.old, r)}
	}
	return list
}

func maskedValue(name string, v any, r Redactor) any {
	member := r.Members(map[string]any{name: v}) // whose name may be masked as well
	return slices.Collect(maps.Values(member))[0]
}

// steps returns the steps whose states differ, and the gates among them that decided.
func steps(from, to any, gates map[string]string) (list []Step, decided []Gate) {
	f, t := records(from), records(to)
	names := slices.Collect(maps.Keys(f))
	for name := range t {
		if _, ok := f[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if reflect.DeepEqual(f[name], t[name]) {
			continue
		}
		was, _ := f[name]["state"].(string)
		is, _ := t[name]["state"].(string)
		if was != is {
			list = append(list, Step{name, was, is})
		}
		gate, ok := gates[name]
		if verdict := verdictOf(t[name]); ok && verdict != "" {
			decided = append(decided, Gate{gate, name, verdict})
		}
	}
	return list, decided
}

// verdictOf returns what a gate's outputs say.
func verdictOf(step map[string]any) string {
	outputs, _ := step["outputs"].(map[string]any)
	for _, name := range []string{"verdict", "decision"} {
		if v, ok := outputs[name].(string); ok {
			return v
		}
	}
	return ""
}

// records returns the records of a state's steps.
func records(state any) map[string]map[string]any {
	doc, _ := state.(map[string]any)
	all, _ := doc["steps"].(map[string]any)
	list := make(map[string]map[string]any, len(all))
	for name, r := range all {
		list[name], _ = r.(map[string]any)
	}
	return list
}

// emptyState is the document before a run's first checkpoint.
const emptyState = `{"steps":{},"vars":{}}`

// decode reads a document.
func decode(doc []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	if _, more := dec.Token(); err == nil && more != io.EOF {
		err = errors.New("more than one value")
	}
	if err != nil {
		return nil, fmt.Errorf("state document: %w", err)
	}
	return v, nil
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
