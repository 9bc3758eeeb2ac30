package merge

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
)

func TestStates(t *testing.T) {
	t.Parallel()
	vars := func(members string) string { return `{"steps":{},"vars":{` + members + `}}` }
	steps := func(members string) string { return `{"steps":{` + members + `},"vars":{}}` }
	at := func(pointer string, kind Kind) []Conflict { return []Conflict{{Pointer: pointer, Kind: kind}} }
	for _, c := range []struct {
		name         string
		base         string
		ours, theirs string
		want         string // "" with conflicts
		conflicts    []Conflict
	}{
		{"nothing", vars(`"k":1`), vars(`"k":1`), vars(`"k":1`), vars(`"k":1`), nil},
		{"one side", vars(`"k":1`), vars(`"k":2`), vars(`"k":1`), vars(`"k":2`), nil},
		{"the same change", vars(`"k":1`), vars(`"k":2`), vars(`"k":2`), vars(`"k":2`), nil},
		{"the same change, written otherwise", vars(``), vars(`"k":{"a":1,"b":"é"}`), vars(`"k": {"b":"\u00e9", "a":1}`), vars(`"k":{"a":1,"b":"é"}`), nil},
		{"different keys", vars(``), vars(`"a":1`), vars(`"b":2`), vars(`"a":1,"b":2`), nil},
		{"different keys of a new object", vars(``), vars(`"o":{"a":1}`), vars(`"o":{"b":2}`), vars(`"o":{"a":1,"b":2}`), nil},
		{"different keys, deep", vars(`"o":{"p":{"a":1,"b":1}}`), vars(`"o":{"p":{"a":2,"b":1}}`), vars(`"o":{"p":{"a":1,"b":2}}`), vars(`"o":{"p":{"a":2,"b":2}}`), nil},
		{"deleted", vars(`"k":1,"l":1`), vars(`"l":1`), vars(`"k":1,"l":1`), vars(`"l":1`), nil},
		{"both delete", vars(`"k":1`), vars(``), vars(``), vars(``), nil},
		{"deleted, and another changed", vars(`"k":1,"l":1`), vars(`"l":1`), vars(`"k":1,"l":2`), vars(`"l":2`), nil},
		{"null is a value", vars(`"k":1`), vars(`"k":null`), vars(`"k":1`), vars(`"k":null`), nil},
		{"emptied is not deleted", vars(`"o":{"a":1}`), vars(`"o":{}`), vars(`"o":{"a":1,"b":2}`), vars(`"o":{"b":2}`), nil},
		{"array of one side", vars(`"l":[1]`), vars(`"l":[1,2]`), vars(`"l":[1]`), vars(`"l":[1,2]`), nil},
		{"numbers keep their digits", vars(`"k":1`), vars(`"k":12345678901234567890.10`), vars(`"k":1`), vars(`"k":12345678901234567890.10`), nil},
		{"no base", "", steps(`"a":{"attempt":1}`), steps(`"b":{"attempt":1}`), steps(`"a":{"attempt":1},"b":{"attempt":1}`), nil},
		{"a step that one side went on with", steps(`"a":{"state":"waiting","attempt":1}`), steps(`"a":{"state":"succeeded","outputs":{"x":1},"attempt":2}`),
			steps(`"a":{"state":"waiting","attempt":1}`), steps(`"a":{"attempt":2,"outputs":{"x":1},"state":"succeeded"}`), nil},
		{"outputs that one side replaced by large ones", steps(`"a":{"outputs":{"x":1}}`), steps(`"a":{"outputs_ref":"sha256:1"}`), steps(`"a":{"outputs":{"x":1}}`),
			steps(`"a":{"outputs_ref":"sha256:1"}`), nil},
		{"outputs is a name for others", vars(`"outputs_ref":1`), vars(`"outputs_ref":2,"outputs":3`), vars(`"outputs_ref":1`), vars(`"outputs":3,"outputs_ref":2`), nil},

		{"changed", vars(`"k":1`), vars(`"k":2`), vars(`"k":3`), "", at("/vars/k", Content)},
		{"added", vars(``), vars(`"k":2`), vars(`"k":3`), "", at("/vars/k", Added)},
		{"added without a base", "", vars(`"k":2`), vars(`"k":3`), "", at("/vars/k", Added)},
		{"deleted and changed", vars(`"k":1`), vars(``), vars(`"k":3`), "", at("/vars/k", Deleted)},
		{"deleted and set to null", vars(`"k":1`), vars(``), vars(`"k":null`), "", at("/vars/k", Deleted)},
		{"deleted and changed within", vars(`"o":{"a":1}`), vars(``), vars(`"o":{"a":2}`), "", at("/vars/o", Deleted)},
		{"null and a value", vars(`"k":1`), vars(`"k":null`), vars(`"k":2`), "", at("/vars/k", Type)},
		{"types", vars(`"k":1`), vars(`"k":"1"`), vars(`"k":[1]`), "", at("/vars/k", Type)},
		{"a value and keys", vars(`"k":{"a":1}`), vars(`"k":1`), vars(`"k":{"a":2}`), "", at("/vars/k", Type)},
		{"two objects for a value", vars(`"k":1`), vars(`"k":{"a":1}`), vars(`"k":{"b":1}`), "", at("/vars/k", Content)},
		{"numbers of other digits", vars(`"k":1`), vars(`"k":2`), vars(`"k":2.0`), "", at("/vars/k", Content)},
		{"arrays", vars(`"l":[1]`), vars(`"l":[1,2]`), vars(`"l":[0,1]`), "", at("/vars/l", Content)},
		{"a name to escape", vars(``), vars(`"a/b~c":1`), vars(`"a/b~c":2`), "", at("/vars/a~1b~0c", Added)},
		{"outputs", steps(`"a":{"outputs":{"x":1}}`), steps(`"a":{"outputs":{"x":2}}`), steps(`"a":{"outputs":{"x":3}}`), "", at("/steps/a/outputs/x", Content)},
		{"outputs, some of them large", steps(`"a":{"state":"waiting"}`), steps(`"a":{"state":"succeeded","outputs":{"x":1}}`), steps(`"a":{"state":"succeeded","outputs_ref":"sha256:1"}`),
			"", at("/steps/a/outputs", Added)},
		{"several", vars(`"a":1,"b":1,"c":1`), vars(`"a":2,"c":2`), vars(`"a":3,"b":3,"c":1`), "",
			[]Conflict{{Pointer: "/vars/a", Kind: Content}, {Pointer: "/vars/b", Kind: Deleted}}},
	} {
		for order, sides := range map[string][][]byte{"ours, theirs": {[]byte(c.ours), []byte(c.theirs)}, "theirs, ours": {[]byte(c.theirs), []byte(c.ours)}} {
			got, conflicts, err := States([]byte(c.base), sides...)
			if err != nil {
				t.Errorf("States(%s, %s) = %v, want nil", c.name, order, err)
			}
			if d := cmp.Diff(c.conflicts, conflicts); d != "" {
				t.Errorf("States(%s, %s): conflicts (-want +got):\n%s", c.name, order, d)
			}
			if string(got) != c.want {
				t.Errorf("States(%s, %s) = %s, want %s", c.name, order, got, c.want)
			}
		}
	}
}

func TestStatesOfManySides(t *testing.T) {
	t.Parallel()
	doc := func(vars string) []byte { return []byte(`{"vars":{` + vars + `}}`) }
	for _, c := range []struct {
		name      string
		sides     [][]byte
		want      string
		conflicts []Conflict
	}{
		{"none", nil, `{"vars":{"k":1}}`, nil},
		{"one", [][]byte{doc(`"k":2`)}, `{"vars":{"k":2}}`, nil},
		{"three", [][]byte{doc(`"k":1,"a":1`), doc(`"k":2`), doc(`"k":1,"b":1`)}, `{"vars":{"a":1,"b":1,"k":2}}`, nil},
		{"the third conflicts", [][]byte{doc(`"k":2`), doc(`"k":1`), doc(`"k":3`)}, "", []Conflict{{Pointer: "/vars/k", Kind: Content}}},
		{"the first to conflict ends it", [][]byte{doc(`"k":2`), doc(`"k":3`), doc(``)}, "", []Conflict{{Pointer: "/vars/k", Kind: Content}}},
	} {
		got, conflicts, err := States(doc(`"k":1`), c.sides...)
		if err != nil || string(got) != c.want || !slices.Equal(conflicts, c.conflicts) {
			t.Errorf("States(%s) = %s, %v, %v, want %s, %v", c.name, got, conflicts, err, c.want, c.conflicts)
		}
	}
	for _, bad := range []string{`[]`, `{`, `{} {}`, ``} {
		if _, _, err := States(nil, []byte(bad), doc(``)); err == nil {
			t.Errorf("States(%q) = nil, want an error", bad)
		}
	}
	ours, theirs := map[string]any{}, map[string]any{}
	for i := range MaxConflicts + 1 {
		ours[fmt.Sprint(i)], theirs[fmt.Sprint(i)] = 1, 2
	}
	o, _ := json.Marshal(ours)
	th, _ := json.Marshal(theirs)
	_, _, err := States(nil, o, th)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Conflict || e.Code != "too-many-conflicts" {
		t.Errorf("States(%d conflicts) = %v, want too-many-conflicts", MaxConflicts+1, err)
	}
}

// values generates JSON, small enough that sides often meet.
func values(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		kinds := 5
		if depth == 0 {
			kinds = 4
		}
		switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
		case 0:
			return nil
		case 1:
			return rapid.SampledFrom([]any{"a", "b", true}).Draw(t, "value")
		case 2:
			return json.Number(rapid.SampledFrom([]string{"1", "1.0", "12345678901234567890"}).Draw(t, "number"))
		case 3:
			return rapid.SliceOfN(values(0), 0, 2).Draw(t, "array")
		}
		return objects(depth-1).Draw(t, "object")
	})
}

// objects generates objects. None has outputs in both forms, as no step does.
func objects(depth int) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		members := rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c/d", outputs, outputsRef}), values(depth), 0, 4).Draw(t, "members")
		if _, ok := members[outputs]; ok {
			delete(members, outputsRef)
		}
		return members
	})
}

// documents generates states: objects with the two parts of one.
func documents() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		return map[string]any{"steps": objects(2).Draw(t, "steps"), "vars": objects(2).Draw(t, "vars")}
	})
}

// changed generates what a side may have made of a value.
func changed(v any) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		members, ok := v.(map[string]any)
		if !ok {
			return rapid.OneOf(rapid.Just(v), values(1)).Draw(t, "value")
		}
		result := maps.Clone(members)
		for _, k := range slices.Sorted(maps.Keys(members)) {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				delete(result, k)
			case 1, 2:
				result[k] = changed(members[k]).Draw(t, k)
			}
		}
		if rapid.Bool().Draw(t, "adds") {
			result[rapid.SampledFrom([]string{"a", "b", "new"}).Draw(t, "key")] = values(1).Draw(t, "added")
		}
		return result
	})
}

// sideOf does what changed does, for a document, whose two parts stay.
func sideOf(base any) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		b := base.(map[string]any)
		return map[string]any{"steps": changed(b["steps"]).Draw(t, "steps"), "vars": changed(b["vars"]).Draw(t, "vars")}
	})
}

func encoded(t *rapid.T, v any) []byte {
	b, err := marshal(v)
	if err != nil {
		t.Fatalf("marshal(%v) = %v", v, err)
	}
	return b
}

func TestLawsOfStates(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		document := documents().Draw(t, "base")
		base := encoded(t, document)
		side := func(name string) []byte { return encoded(t, sideOf(document).Draw(t, name)) }
		ours, theirs, others := side("ours"), side("theirs"), side("others")
		for name, law := range map[string]struct {
			sides [][]byte
			want  []byte
		}{
			"nobody changed it": {[][]byte{base, base}, base}, "ours alone": {[][]byte{ours, base}, ours}, "theirs alone": {[][]byte{base, theirs}, theirs},
			"agreed": {[][]byte{ours, ours}, ours}, "one": {[][]byte{ours}, ours}, "none": {nil, base},
		} {
			if got, conflicts, err := States(base, law.sides...); err != nil || len(conflicts) > 0 || string(got) != string(law.want) {
				t.Fatalf("States(%s) = %s, %v, %v, want %s", name, got, conflicts, err, law.want)
			}
		}
		one, conflicts, err := States(base, ours, theirs)
		two, swapped, swappedErr := States(base, theirs, ours)
		if err != nil || swappedErr != nil || string(one) != string(two) || !slices.Equal(conflicts, swapped) {
			t.Fatalf("States(ours, theirs) = %s, %v, %v\nStates(theirs, ours) = %s, %v, %v", one, conflicts, err, two, swapped, swappedErr)
		}
		if (one == nil) != (len(conflicts) > 0) {
			t.Fatalf("States(ours, theirs) = %s with conflicts %v, want one of the two", one, conflicts)
		}
		three, conflicts, _ := States(base, ours, theirs, others)
		again, reordered, _ := States(base, others, ours, theirs)
		if (len(conflicts) > 0) != (len(reordered) > 0) || string(three) != string(again) {
			t.Fatalf("States(ours, theirs, others) = %s, %v\nStates(others, ours, theirs) = %s, %v", three, conflicts, again, reordered)
		}
	})
}

// Without its base a merge is what it is with any base that the sides added steps to.
func TestUnion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := documents().Draw(t, "base").(map[string]any)
		var sides [][]byte
		for i := range rapid.IntRange(1, 4).Draw(t, "sides") {
			steps := maps.Clone(base["steps"].(map[string]any))
			steps[fmt.Sprintf("own%d", i)] = values(2).Draw(t, "own")
			if rapid.Bool().Draw(t, "another") {
				steps["another"] = json.Number("1")
			}
			sides = append(sides, encoded(t, map[string]any{"steps": steps, "vars": base["vars"]}))
		}
		want, _, err := States(encoded(t, base), sides...)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok, err := Union(sides...); !ok || err != nil || string(got) != string(want) {
			t.Fatalf("Union(%s) = %s, %t, %v, want %s", sides, got, ok, err, want)
		}
	})
	for name, sides := range map[string][2]string{
		"a step":             {`{"steps":{"a":1},"vars":{}}`, `{"steps":{"a":2},"vars":{}}`},
		"a variable":         {`{"steps":{},"vars":{"a":1}}`, `{"steps":{},"vars":{"a":2}}`},
		"a variable of one":  {`{"steps":{},"vars":{"a":1}}`, `{"steps":{},"vars":{}}`},
		"a part that is new": {`{"steps":{},"vars":{},"x":1}`, `{"steps":{},"vars":{}}`},
	} {
		for _, order := range [][][]byte{{[]byte(sides[0]), []byte(sides[1])}, {[]byte(sides[1]), []byte(sides[0])}} {
			if got, ok, err := Union(order...); ok || err != nil {
				t.Errorf("Union(%s) = %s, %t, %v, want none: the base decides", name, got, ok, err)
			}
		}
	}
	if _, _, err := Union([]byte(`{"steps":1}`), []byte(`{"steps":1}`)); err == nil {
		t.Error("Union(no states) = nil, want an error")
	}
}
