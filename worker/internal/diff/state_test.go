package diff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"nofx.dev/shared/jsonpatch"
)

func TestStates(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to, want string }{
		{`{"a":1}`, `{"a":1}`, `[]`},
		{`{"a":1}`, `{"a":2}`, `[{"op":"replace","path":"/a","value":2,"old":1}]`},
		{`{"a":1}`, `{"a":1.0}`, `[{"op":"replace","path":"/a","value":1.0,"old":1}]`},
		{`{"a":1}`, `{"a":null}`, `[{"op":"replace","path":"/a","value":null,"old":1}]`},
		{`{"a":null}`, `{}`, `[{"op":"remove","path":"/a","old":null}]`},
		{`{}`, `{"a":null}`, `[{"op":"add","path":"/a","value":null}]`},
		{`{"a/b":{"~":1}}`, `{"a/b":{"~":12345678901234567890.10}}`, `[{"op":"replace","path":"/a~1b/~0","value":12345678901234567890.10,"old":1}]`},
		{`{"a":{"b":1}}`, `{"a":[1]}`, `[{"op":"replace","path":"/a","value":[1],"old":{"b":1}}]`},
		{`{"a":[1,2,3]}`, `{"a":[1,3]}`, `[{"op":"remove","path":"/a/1","old":2}]`},
		{`{"a":[1,2]}`, `{"a":[0,1,2,3]}`, `[{"op":"add","path":"/a/0","value":0},{"op":"add","path":"/a/3","value":3}]`},
		{`{"a":[{"b":1},{"c":2}]}`, `{"a":[{"b":2},{"c":2}]}`, `[{"op":"replace","path":"/a/0/b","value":2,"old":1}]`},
		{`{"a":[]}`, `{"a":[null]}`, `[{"op":"add","path":"/a/0","value":null}]`},
	} {
		ops, replaced := operationsOf(t, []byte(c.from), []byte(c.to))
		got, err := marshal(ops)
		if err != nil || string(got) != c.want || replaced {
			t.Errorf("operations(%s, %s) = %s, replaced %t, %v, want %s", c.from, c.to, got, replaced, err, c.want)
		}
	}
}

// operationsOf returns the checked operations between two documents.
func operationsOf(t interface{ Fatalf(string, ...any) }, from, to []byte) ([]jsonpatch.Operation, bool) {
	f, err := decode(from)
	if err != nil {
		t.Fatalf("decode(%s) = %v", from, err)
	}
	o, err := decode(to)
	if err != nil {
		t.Fatalf("decode(%s) = %v", to, err)
	}
	list, replaced, err := checked(between(f, o), from, f, o)
	if err != nil {
		t.Fatalf("checked(%s, %s) = %v", from, to, err)
	}
	ops, err := operations(list)
	if err != nil {
		t.Fatalf("operations(%s, %s) = %v", from, to, err)
	}
	return ops, replaced
}

// inverted returns the patch that leads back.
func inverted(ops []jsonpatch.Operation) []jsonpatch.Operation {
	var back []jsonpatch.Operation
	for _, op := range slices.Backward(ops) {
		switch op.Op {
		case "add":
			op = jsonpatch.Operation{Op: "remove", Path: op.Path}
		case "remove":
			op = jsonpatch.Operation{Op: "add", Path: op.Path, Value: op.Old}
		case "replace":
			op = jsonpatch.Operation{Op: "replace", Path: op.Path, Value: op.Old}
		}
		back = append(back, op)
	}
	return back
}

// Arrays that are too large for it are not compared item with item: what is added at an
// end is, and other changes replace them.
func TestStatesOfLargeArrays(t *testing.T) {
	t.Parallel()
	array := func(n int, edit func([]any) []any) []byte {
		list := make([]any, n)
		for i := range list {
			list[i] = i
		}
		b, err := marshal(map[string]any{"a": edit(list)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	same := func(l []any) []any { return l }
	twoChanged := func(l []any) []any { l[1], l[len(l)-2] = "x", "y"; return l }
	for _, c := range []struct {
		name string
		n    int
		edit func([]any) []any
		want int
		path string
	}{
		{"appended", maxItems + 1, func(l []any) []any { return append(l, "x") }, 1, fmt.Sprintf("/a/%d", maxItems+1)},
		{"one removed", maxItems + 1, func(l []any) []any { return slices.Delete(l, 5, 6) }, 1, "/a/5"},
		{"two changed", maxItems + 1, twoChanged, 1, "/a"},
		{"two changed, smaller", maxItems, twoChanged, 2, "/a/1"},
	} {
		ops, replaced := operationsOf(t, array(c.n, same), array(c.n, c.edit))
		if len(ops) != c.want || ops[0].Path != c.path || replaced {
			t.Errorf("%s: %d operations, the first at %s, replaced %t, want %d, %s", c.name, len(ops), ops[0].Path, replaced, c.want, c.path)
		}
	}
}

// A patch that does not lead to the document is not answered: such as one of members that
// have an empty name.
func TestWrongOperationsAreReplaced(t *testing.T) {
	t.Parallel()
	from, to := map[string]any{"a": json.Number("1")}, map[string]any{"a": json.Number("2")}
	for name, wrong := range map[string][]change{
		"does not apply": {{op: "remove", path: "/b"}}, "leads elsewhere": {{op: "replace", path: "/a", value: json.Number("3"), old: json.Number("1")}},
	} {
		list, replaced, err := checked(wrong, []byte(`{"a":1}`), from, to)
		if want := []change{{"replace", "", to, from}}; err != nil || !replaced || !reflect.DeepEqual(list, want) {
			t.Errorf("checked(%s) = %v, %t, %v, want %v", name, list, replaced, err, want)
		}
	}
	if ops, replaced := operationsOf(t, []byte(`{"":1}`), []byte(`{"":2}`)); !replaced || len(ops) != 1 || ops[0].Path != "" {
		t.Errorf("operations(empty name) = %v, %t, want one of the whole", ops, replaced)
	}
}

// values generates JSON, small enough that two often have much in common.
func values(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 5
		if depth == 0 {
			kinds = 3
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.SampledFrom([]any{"a", "b", "<é\u2028", true, false}).Draw(t, "value")
		case 2:
			return json.Number(rapid.SampledFrom([]string{"0", "1", "1.0", "-1e400", "12345678901234567890"}).Draw(t, "number"))
		case 3:
			return rapid.SliceOfN(values(depth-1), 0, 6).Draw(t, "array")
		}
		return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c/d", "~", "-", "0", "~1"}), values(depth-1), 0, 5).Draw(t, "object")
	})
}

// changed generates what may have become of a value.
func changed(v any) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		if rapid.IntRange(0, 9).Draw(t, "other") == 0 {
			return values(2).Draw(t, "value")
		}
		switch v := v.(type) {
		case map[string]any:
			result := maps.Clone(v)
			for _, k := range slices.Sorted(maps.Keys(v)) {
				switch rapid.IntRange(0, 3).Draw(t, "what") {
				case 0:
					delete(result, k)
				case 1:
					result[k] = changed(v[k]).Draw(t, "member")
				}
			}
			return result
		case []any:
			result := []any{}
			for _, item := range v {
				switch rapid.IntRange(0, 4).Draw(t, "what") {
				case 0:
				case 1:
					result = append(result, changed(item).Draw(t, "item"))
				case 2:
					result = append(result, values(1).Draw(t, "added"), item)
				default:
					result = append(result, item)
				}
			}
			return result
		}
		return values(2).Draw(t, "value")
	})
}

// checkStates checks that the operations between two documents lead from one to the other
// and, inverted, back.
func checkStates(t interface{ Fatalf(string, ...any) }, from, to []byte) {
	ops, replaced := operationsOf(t, from, to)
	if replaced && !bytes.Contains(slices.Concat(from, to), []byte(`"":`)) {
		t.Fatalf("operations(%s, %s) were replaced", from, to)
	}
	for _, c := range []struct {
		doc, want []byte
		ops       []jsonpatch.Operation
	}{{from, to, ops}, {to, from, inverted(ops)}} {
		got, err := jsonpatch.Apply(c.doc, c.ops)
		if err != nil {
			t.Fatalf("Apply(%s, %v) = %v", c.doc, c.ops, err)
		}
		g, _ := decode(got)
		w, _ := decode(c.want)
		if !reflect.DeepEqual(g, w) {
			t.Fatalf("Apply(%s, %v) = %s, want %s", c.doc, c.ops, got, c.want)
		}
	}
}

func TestStatesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.MapOfN(rapid.SampledFrom([]string{"steps", "vars", "a/b"}), values(3), 0, 3).Draw(t, "from")
		from, err := marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		to, err := marshal(map[string]any{"vars": changed(v["vars"]).Draw(t, "vars"), "a/b": changed(v["a/b"]).Draw(t, "a/b")})
		if err != nil {
			t.Fatal(err)
		}
		checkStates(t, from, to)
	})
}

func FuzzStates(f *testing.F) {
	f.Add([]byte(`{"a":[1,null,{"~":1.0}]}`), []byte(`{"a":[null,{"~":1}],"/":null}`))
	f.Add([]byte(`{"":{"":[[]]}}`), []byte(`{"":{"":[[1],[]]}}`))
	f.Fuzz(func(t *testing.T, from, to []byte) {
		for _, doc := range []*[]byte{&from, &to} {
			v, err := decode(*doc)
			if _, ok := v.(map[string]any); err != nil || !ok {
				return // no state
			}
			if *doc, err = marshal(v); err != nil { // states are stored in this form
				return // no state
			}
		}
		checkStates(t, from, to)
	})
}
