package jsonpatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
)

func parse(t *testing.T, patch string) (ops []Operation) {
	t.Helper()
	if err := json.Unmarshal([]byte(patch), &ops); err != nil {
		t.Fatalf("Unmarshal(%s) = %v", patch, err)
	}
	return ops
}

func TestApply(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ doc, patch, want string }{
		{`{"a":1}`, `[]`, `{"a":1}`},
		{`{"a":1.0,"b":12345678901234567890.10,"q":"<é>"}`, `[{"op":"add","path":"/c","value":1.00e5}]`, `{"a":1.0,"b":12345678901234567890.10,"q":"<é>","c":1.00e5}`},
		{`{"a":1}`, `[{"op":"replace","path":"","value":{"b":1}}]`, `{"b":1}`},
		{`{"a":null}`, `[{"op":"remove","path":"/a"}]`, `{}`},
		{`{"a":1}`, `[{"op":"replace","path":"/a","value":null}]`, `{"a":null}`},
		{`{"a":null}`, `[{"op":"test","path":"/a","value":null}]`, `{"a":null}`},
		{`{"a":[1,null,2]}`, `[{"op":"test","path":"/a/1","value":null}]`, `{"a":[1,null,2]}`},
		{`{"a":[1,2]}`, `[{"op":"add","path":"/a/-","value":4},{"op":"add","path":"/a/2","value":3}]`, `{"a":[1,2,3,4]}`},
		{`{"a":{"-1":1}}`, `[{"op":"remove","path":"/a/-1"}]`, `{"a":{}}`},
		{`{"":1,"a/b":{"~":2}}`, `[{"op":"replace","path":"/","value":5},{"op":"replace","path":"/a~1b/~0","value":6}]`, `{"":5,"a/b":{"~":6}}`},
		{`{"a":1}`, `[{"op":"copy","from":"/a","path":"/b"},{"op":"move","from":"/a","path":"/c"}]`, `{"b":1,"c":1}`},
		{`{"a":{"b":1}}`, `[{"op":"replace","path":"/a","value":{"c":1},"old":{"b":1}}]`, `{"a":{"c":1}}`},
	} {
		got, err := Apply([]byte(c.doc), parse(t, c.patch))
		if err != nil || string(got) != c.want {
			t.Errorf("Apply(%s, %s) = %s, %v, want %s", c.doc, c.patch, got, err, c.want)
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	const ok = `{"op":"add","path":"/ok","value":1},`
	for _, c := range []struct{ op, want string }{
		{`{"op":"replace","path":"/b","value":1}`, "missing"},
		{`{"op":"remove","path":"/b"}`, "nonexistent"},
		{`{"op":"remove","path":""}`, "nonexistent"},
		{`{"op":"test","path":"/a","value":2}`, "test failed"},
		{`{"op":"test","path":"/b","value":null}`, "missing"},
		{`{"op":"add","path":"/list/-1","value":1}`, "invalid index"},
		{`{"op":"add","path":"/list/3","value":1}`, "invalid index"},
		{`{"op":"add","path":"/a/b/c","value":1}`, "missing"},
		{`{"op":"add","path":"/b"}`, "add needs a value"},
		{`{"op":"frob","path":"/b"}`, `"frob" is not an operation`},
		{`{"op":"remove","path":"a"}`, `"a" is not a JSON pointer`},
		{`{"op":"add","path":"/~2","value":1}`, `"/~2" is not a JSON pointer`},
		{`{"op":"copy","path":"/b"}`, `"" is not a JSON pointer to copy from`},
		{`{"op":"move","from":"/o","path":"/o/p"}`, "missing"},
	} {
		got, err := Apply([]byte(`{"a":1,"list":[1,2],"o":{"p":1}}`), parse(t, "["+ok+c.op+"]"))
		e, isFault := errors.AsType[*fault.Error](err)
		if !isFault || e.Kind != fault.Invalid || e.Code != "patch-failed" || e.Fields[0].Pointer != "/1" || !strings.Contains(e.Detail, c.want) {
			t.Errorf("Apply(%s) = %s, %v, want patch-failed at /1 with %q", c.op, got, err, c.want)
		}
	}
	if _, err := Apply([]byte(`{`), nil); err == nil {
		t.Error("Apply(no JSON) = nil, want an error")
	}
}

// Copies of copies grow without bound if nothing stops them.
func TestApplyBoundsCopies(t *testing.T) {
	t.Parallel()
	ops := parse(t, `[{"op":"add","path":"/a","value":"`+strings.Repeat("x", 1<<20)+`"}]`)
	for i := range 20 {
		ops = append(ops, Operation{Op: "copy", From: "/a", Path: fmt.Sprintf("/b%d", i)})
	}
	if _, err := Apply([]byte(`{}`), ops); !errors.Is(err, fault.Invalid) {
		t.Errorf("Apply(20 copies of a mebibyte) = %v, want Invalid", err)
	}
}
