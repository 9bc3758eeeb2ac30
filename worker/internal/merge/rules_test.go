package merge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// takes returns rules that take a side at each of these places.
func takes(sides map[string]Take) Rules {
	return Rules{Values: true, Takes: func(c Conflict) (Take, bool) {
		t, ok := sides[c.At()]
		return t, ok
	}}
}

// mergeBy merges files in memory by rules. A result of nil means that conflicts are open.
func mergeBy(t fataler, rules Rules, base, ours, theirs files) (result files, conflicts []Conflict) {
	t.Helper()
	nodes := map[tree.Digest][]tree.Entry{}
	m := NewTrees(stored(nodes))
	got, conflicts, err := m.MergeBy(context.Background(), rules, base.build(nodes), ours.build(nodes), theirs.build(nodes))
	if err != nil {
		t.Fatalf("MergeBy() = %v", err)
	}
	if got == (tree.Digest{}) {
		return nil, conflicts
	}
	for _, content := range m.Made(got) {
		written.Store(tree.Sum(content), string(content))
	}
	maps.Copy(nodes, m.nodes)
	result = files{}
	for p, e := range flat(nodes, got) {
		content, _ := written.Load(e.Digest)
		prefix := map[tree.Mode]string{tree.Executable: "exec:", tree.Symlink: "link:"}[e.Mode]
		result[p] = prefix + content.(string)
	}
	return result, conflicts
}

func TestTakesOfPaths(t *testing.T) {
	t.Parallel()
	base := files{"t": "a\nb\nc\nd\ne\n", "x": "1", "d/in": "1", "bin": "\x00"}
	with := func(edits files, gone ...string) files {
		f := maps.Clone(base)
		for _, p := range gone {
			delete(f, p)
		}
		maps.Copy(f, edits)
		return f
	}
	given := tree.Entry{Digest: tree.Sum([]byte("1")), Size: 1}
	for _, c := range []struct {
		name         string
		ours, theirs files
		at           string
		take         Take
		want         files // nil: a fault
	}{
		{"ours", with(files{"x": "2"}), with(files{"x": "3", "n": "1"}), "x", Take{Side: Ours}, with(files{"x": "2", "n": "1"})},
		{"theirs", with(files{"x": "2"}), with(files{"x": "3"}), "x", Take{Side: Theirs}, with(files{"x": "3"})},
		{"base", with(files{"x": "2"}), with(files{"x": "3"}), "x", Take{Side: Base}, base},
		{"base of what was added", with(files{"n": "2"}), with(files{"n": "3"}), "n", Take{Side: Base}, base},
		{"the deletion", with(nil, "x"), with(files{"x": "3"}), "x", Take{Side: Ours}, with(nil, "x")},
		{"the change", with(nil, "x"), with(files{"x": "3"}), "x", Take{Side: Theirs}, with(files{"x": "3"})},
		{"the directory", with(files{"x/y": "2"}, "x"), with(files{"x": "3"}), "x", Take{Side: Ours}, with(files{"x/y": "2"}, "x")},
		{"one of two cases", with(files{"n": "1"}), with(files{"N": "2"}), "n N", Take{Side: Ours}, with(files{"n": "1"})},
		{"the link", with(files{"x": "link:y"}), with(files{"x": "2"}), "x", Take{Side: Ours}, with(files{"x": "link:y"})},
		{"both", with(files{"t": "a\nB\nc\nd\ne\n"}), with(files{"t": "a\n2\nc\nd\nE\n"}), "t", Take{Side: Both}, with(files{"t": "a\nB\n2\nc\nd\nE\n"})},
		{"theirs of one place", with(files{"t": "exec:1\nb\nC\nd\ne\n"}), with(files{"t": "2\nb\nc\nd\nE\n"}), "t", Take{Side: Theirs}, with(files{"t": "exec:2\nb\nC\nd\nE\n"})},
		{"ours of one place", with(files{"t": "1\nb\nC\nd\ne\n"}), with(files{"t": "2\nb\nc\nd\nE\n"}), "t", Take{Side: Ours}, with(files{"t": "1\nb\nC\nd\nE\n"})},
		{"base of one place", with(files{"t": "1\nb\nC\nd\ne\n"}), with(files{"t": "2\nb\nc\nd\nE\n"}), "t", Take{Side: Base}, with(files{"t": "a\nb\nC\nd\nE\n"})},
		{"base of no text", with(files{"bin": "1\n"}), with(files{"bin": "2\n"}), "bin", Take{Side: Base}, base},
		{"both of what was added", with(files{"n": "1"}), with(files{"n": "exec:2\n"}), "n", Take{Side: Both}, with(files{"n": "1\n2\n"})},
		{"both keep a mode", with(files{"x": "exec:2\n"}), with(files{"x": "3\n"}), "x", Take{Side: Both}, with(files{"x": "exec:2\n3\n"})},
		{"both of no text", with(files{"bin": "\x001"}), with(files{"bin": "\x002"}), "bin", Take{Side: Both}, nil},
		{"another content", with(files{"x": "exec:2"}), with(files{"x": "3"}), "x", Take{Side: Given, Content: []byte("4")}, with(files{"x": "exec:4"})},
		{"a stored file", with(files{"x": "2"}), with(files{"x": "3"}), "x", Take{Side: Given, Entry: &given}, base},
	} {
		sides := map[string]Take{}
		for _, at := range strings.Fields(c.at) {
			sides[at] = c.take
		}
		if c.want == nil {
			nodes := map[tree.Digest][]tree.Entry{}
			_, _, err := NewTrees(stored(nodes)).MergeBy(t.Context(), takes(sides), base.build(nodes), c.ours.build(nodes), c.theirs.build(nodes))
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("%s: MergeBy() = %v, want invalid", c.name, err)
			}
			continue
		}
		got, conflicts := mergeBy(t, takes(sides), base, c.ours, c.theirs)
		if d := cmp.Diff(c.want, got); d != "" || len(conflicts) != len(sides) {
			t.Errorf("%s: conflicts %v, files (-want +got):\n%s", c.name, conflicts, d)
		}
		if got, conflicts := mergeBy(t, Rules{}, base, c.ours, c.theirs); got != nil || len(conflicts) != len(sides) {
			t.Errorf("%s, undecided: got %v with conflicts %v, want the conflicts alone", c.name, got, conflicts)
		}
	}
}

// In strict mode every place that both changed is a conflict, so a side counts for the whole
// text.
func TestStrictTakesOfTexts(t *testing.T) {
	t.Parallel()
	base := files{"t": "a\nb\nc\nd\ne\n"}
	ours, theirs := files{"t": "A\nb\nc\nd\ne\n"}, files{"t": "a\nb\nc\nd\nE\n"}
	for side, want := range map[Side]files{Ours: ours, Theirs: theirs, Base: base} {
		rules := takes(map[string]Take{"t": {Side: side}})
		rules.Strict = true
		if got, conflicts := mergeBy(t, rules, base, ours, theirs); len(conflicts) != 1 || !maps.Equal(got, want) {
			t.Errorf("%s: got %v with conflicts %v, want %v", side, got, conflicts, want)
		}
	}
}

func TestValuesOfConflicts(t *testing.T) {
	t.Parallel()
	base := files{"t": "a\nb\nc\n", "was": "moved", "long": strings.Repeat("é\n", 1000)}
	ours := files{"t": "a\nB\nc\n", "is/here": "moved", "is/there": "moved", "long": "1" + base["long"]}
	theirs := files{"t": "a\n2\nc\n", "was": "changed", "long": "2" + strings.Repeat("x\n", 1000)}
	_, conflicts := mergeBy(t, Rules{Values: true}, base, ours, theirs)
	var got []string
	for _, c := range conflicts {
		text := func(v *Value) string {
			if v == nil {
				return "nothing"
			}
			return fmt.Sprintf("%d bytes %q", v.Entry.Size, v.Excerpt[:min(len(v.Excerpt), 10)])
		}
		got = append(got, fmt.Sprintf("%s %s line %d, %s, %s, %s, moved to %q, text %v", c.Path, c.Kind, c.Line, text(c.Base), text(c.Ours), text(c.Theirs), c.Renamed, c.Text))
	}
	want := []string{
		`long content line 1, 3000 bytes "é\né\né\n\xc3", 3001 bytes "1é\né\né\n", 2001 bytes "2x\nx\nx\nx\nx", moved to "", text true`,
		`t content line 2, 6 bytes "b\n", 6 bytes "B\n", 6 bytes "2\n", moved to "", text true`,
		`was deleted line 0, 5 bytes "", nothing, 7 bytes "", moved to "is/here", text false`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("conflicts (-want +got):\n%s", d)
	}
	if n := len(conflicts[0].Base.Excerpt); n > mostExcerpt {
		t.Errorf("an excerpt has %d bytes, want at most %d", n, mostExcerpt)
	}
}

func TestStrict(t *testing.T) {
	t.Parallel()
	base := files{"t": "a\nb\nc\n", "s": "s", "d/x": "x"}
	for _, c := range []struct {
		name         string
		ours, theirs files
		conflicts    []Conflict
	}{
		{"lines apart", files{"t": "A\nb\nc\n", "s": "s", "d/x": "x"}, files{"t": "a\nb\nC\n", "s": "s", "d/x": "x"}, []Conflict{{Path: "t", Kind: Content}}},
		{"mode and bytes", files{"t": "a\nb\nc\n", "s": "exec:s", "d/x": "x"}, files{"t": "a\nb\nc\n", "s": "S", "d/x": "x"}, []Conflict{{Path: "s", Kind: Content}}},
		{"removed, and another in its place", files{"t": "a\nb\nc\n", "d/x": "x"}, files{"t": "a\nb\nc\n", "s/in": "s", "d/x": "x"}, []Conflict{{Path: "s", Kind: Deleted}}},
		{"different files", files{"t": "A", "s": "s", "d/x": "x"}, files{"t": "a\nb\nc\n", "s": "S", "d/x": "x"}, nil},
		{"the same change", files{"t": "A", "s": "s", "d/x": "x"}, files{"t": "A", "s": "s", "d/x": "x"}, nil},
		{"files of one directory", files{"t": "a\nb\nc\n", "s": "s", "d/x": "X"}, files{"t": "a\nb\nc\n", "s": "s", "d/x": "x", "d/y": "y"}, nil},
	} {
		_, conflicts := mergeBy(t, Rules{Strict: true}, base, c.ours, c.theirs)
		if d := cmp.Diff(c.conflicts, conflicts); d != "" {
			t.Errorf("%s: conflicts (-want +got):\n%s", c.name, d)
		}
		if _, conflicts := mergeBy(t, Rules{}, base, c.ours, c.theirs); len(conflicts) > 0 {
			t.Errorf("%s, not strict: conflicts %v, want none", c.name, conflicts)
		}
	}
}

func TestStatesByRules(t *testing.T) {
	t.Parallel()
	vars := func(members string) string { return `{"steps":{},"vars":{` + members + `}}` }
	steps := func(members string) string { return `{"steps":{` + members + `},"vars":{}}` }
	arrays := map[string]string{"/vars/l": "append", "/vars/s": "set", "/vars/k": "byKey:id"}
	rules := Rules{Arrays: func(pointer string) string { return arrays[pointer] }}
	strict := rules
	strict.Strict = true
	runs := Rules{Gates: func(step string) bool { return step == "gate" }}
	take := func(side Side, json string) Rules {
		return Rules{Takes: func(Conflict) (Take, bool) { return Take{Side: side, JSON: []byte(json)}, true }}
	}
	for _, c := range []struct {
		name               string
		rules              Rules
		base, ours, theirs string
		want               string // "" with open conflicts
		conflicts          []string
	}{
		{"append", rules, vars(`"l":[1]`), vars(`"l":[1,2]`), vars(`"l":[1,3,2]`), vars(`"l":[1,2,3,2]`), nil},
		{"append without a base", rules, vars(``), vars(`"l":[2]`), vars(`"l":[3]`), vars(`"l":[2,3]`), nil},
		{"append after another change", rules, vars(`"l":[1]`), vars(`"l":[2]`), vars(`"l":[1,3]`), "", []string{"/vars/l"}},
		{"set", rules, vars(`"s":[1,2,3]`), vars(`"s":[3,1,4]`), vars(`"s":[1,2,5,5,4]`), vars(`"s":[1,4,5]`), nil},
		{"by key", rules, vars(`"k":[{"id":1,"a":1,"b":1},{"id":2}]`), vars(`"k":[{"id":1,"a":2,"b":1},{"id":2},{"id":3}]`), vars(`"k":[{"id":4},{"id":1,"a":1,"b":2}]`),
			vars(`"k":[{"a":2,"b":2,"id":1},{"id":3},{"id":4}]`), nil},
		{"by key, one changed by both", rules, vars(`"k":[{"id":1,"a":1}]`), vars(`"k":[{"id":1,"a":2}]`), vars(`"k":[{"id":1,"a":3}]`), "", []string{"/vars/k"}},
		{"by key without keys", rules, vars(`"k":[]`), vars(`"k":[1]`), vars(`"k":[2]`), "", []string{"/vars/k"}},
		{"by key, twice", rules, vars(`"k":[]`), vars(`"k":[{"id":1},{"id":1}]`), vars(`"k":[{"id":2}]`), "", []string{"/vars/k"}},
		{"no rule", rules, vars(`"o":[1]`), vars(`"o":[1,2]`), vars(`"o":[1,3]`), "", []string{"/vars/o"}},
		{"another type", rules, vars(`"l":1`), vars(`"l":[1,2]`), vars(`"l":[1,3]`), "", []string{"/vars/l"}},
		{"arrays, strict", strict, vars(`"l":[1]`), vars(`"l":[1,2]`), vars(`"l":[1,3]`), "", []string{"/vars/l"}},
		{"keys, strict", strict, vars(`"o":{"a":1}`), vars(`"o":{"a":2}`), vars(`"o":{"a":1,"b":1}`), vars(`"o":{"a":2,"b":1}`), nil},
		{"added, strict", strict, vars(``), vars(`"o":{"a":2}`), vars(`"o":{"b":1}`), "", []string{"/vars/o"}},

		{"ours", take(Ours, ""), vars(`"a":1`), vars(`"a":2`), vars(`"a":3,"b":1`), vars(`"a":2,"b":1`), []string{"/vars/a"}},
		{"theirs", take(Theirs, ""), vars(`"a":1`), vars(``), vars(`"a":3`), vars(`"a":3`), []string{"/vars/a"}},
		{"the deletion", take(Ours, ""), vars(`"a":1`), vars(``), vars(`"a":3`), vars(``), []string{"/vars/a"}},
		{"base", take(Base, ""), vars(`"a":1`), vars(`"a":2`), vars(`"a":3`), vars(`"a":1`), []string{"/vars/a"}},
		{"a value", take(Given, `{"b":1.50}`), vars(`"a":1`), vars(`"a":2`), vars(`"a":3`), vars(`"a":{"b":1.50}`), []string{"/vars/a"}},
		{"both", take(Both, ""), vars(`"a":1`), vars(`"a":2`), vars(`"a":3`), "", []string{"/vars/a"}},

		{"a verdict of theirs", runs, steps(``), steps(``), steps(`"gate":{"attempt":1,"state":"succeeded"}`), steps(``), nil},
		{"verdicts of both", runs, steps(``), steps(`"gate":{"attempt":2,"state":"failed"}`), steps(`"gate":{"attempt":1,"state":"succeeded"}`), steps(`"gate":{"attempt":2,"state":"failed"}`), nil},
		{"a verdict that changed", runs, steps(`"gate":{"state":"failed"}`), steps(`"gate":{"state":"failed"}`), steps(`"gate":{"state":"succeeded"}`), steps(`"gate":{"state":"failed"}`), nil},
		{"a step of theirs", runs, steps(``), steps(``), steps(`"a":{"attempt":1,"state":"succeeded"}`), steps(``), nil},
		{"a step that failed here", runs, steps(``), steps(`"a":{"attempt":1,"state":"failed"}`), steps(`"a":{"attempt":1,"outputs":{"x":1},"state":"succeeded"}`), steps(`"a":{"attempt":1,"state":"failed"}`), nil},
		{"attempts", runs, steps(``), steps(`"a":{"attempt":3,"outputs":{"x":1},"state":"succeeded"}`), steps(`"a":{"attempt":1,"outputs":{"y":1},"state":"succeeded"}`),
			steps(`"a":{"attempt":3,"outputs":{"x":1,"y":1},"state":"succeeded"}`), nil},
		{"outputs", runs, steps(``), steps(`"a":{"attempt":3,"outputs":{"x":1},"state":"succeeded"}`), steps(`"a":{"attempt":1,"outputs":{"x":2},"state":"succeeded"}`), "", []string{"/steps/a/outputs/x"}},
		{"outputs of theirs, edited", runs, steps(`"a":{"attempt":1,"outputs":{"x":1},"state":"succeeded"}`), steps(`"a":{"attempt":1,"outputs":{"x":1},"state":"succeeded"}`),
			steps(`"a":{"attempt":1,"outputs":{"x":2},"state":"succeeded"}`), steps(`"a":{"attempt":1,"outputs":{"x":2},"state":"succeeded"}`), nil},
	} {
		c.rules.Values = true
		doc, conflicts, err := StatesBy(c.rules, []byte(c.base), []byte(c.ours), []byte(c.theirs))
		var at []string
		for _, conflict := range conflicts {
			at = append(at, conflict.Pointer)
			if conflict.Ours == nil && conflict.Theirs == nil {
				t.Errorf("%s: conflict at %s has no values", c.name, conflict.Pointer)
			}
		}
		if err != nil || string(doc) != c.want || !slices.Equal(at, c.conflicts) {
			t.Errorf("%s: StatesBy() = %s, %v, %v, want %s, %v", c.name, doc, at, err, c.want, c.conflicts)
		}
	}
}

// What strict mode merges, normal mode merges to the same; whatever is decided about all
// conflicts gives a result; and a merge of what came of one with a side is that.
func TestLawsOfRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		base := files{}
		if rapid.Bool().Draw(t, "ancestor") {
			base = workspaces().Draw(t, "base")
		}
		ours, theirs := edits(base).Draw(t, "ours"), edits(base).Draw(t, "theirs")
		normal, open := mergeBy(t, Rules{}, base, ours, theirs)
		if strict, conflicts := mergeBy(t, Rules{Strict: true}, base, ours, theirs); strict != nil && !maps.Equal(strict, normal) {
			t.Fatalf("strict gave %v, normal %v", strict, normal)
		} else if len(conflicts) < len(open) && strict != nil {
			t.Fatalf("strict has conflicts %v, normal %v", conflicts, open)
		}
		for _, side := range []Side{Ours, Theirs, Base} {
			rules := Rules{Takes: func(Conflict) (Take, bool) { return Take{Side: side}, true }}
			got, conflicts := mergeBy(t, rules, base, ours, theirs)
			if got == nil || len(open) == 0 && !maps.Equal(got, normal) {
				t.Fatalf("with %s at each conflict: got %v of conflicts %v, normal %v", side, got, conflicts, normal)
			}
		}
		if normal != nil {
			for _, side := range []files{ours, theirs} {
				if again, conflicts := mergeBy(t, Rules{}, side, normal, side); !maps.Equal(again, normal) {
					t.Fatalf("merged again: got %v with conflicts %v, want %v", again, conflicts, normal)
				}
			}
		}

		document := documents().Draw(t, "state")
		b, o, th := encoded(t, document), encoded(t, sideOf(document).Draw(t, "our state")), encoded(t, sideOf(document).Draw(t, "their state"))
		doc, _, err := StatesBy(Rules{}, b, o, th)
		strict, _, strictErr := StatesBy(Rules{Strict: true}, b, o, th)
		if err != nil || strictErr != nil || strict != nil && string(strict) != string(doc) {
			t.Fatalf("states: strict %s, %v, normal %s, %v", strict, strictErr, doc, err)
		}
	})
}

func TestCaseFolding(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"a", "A"}, {"ä", "Ä"}, {"σ", "ς"}, {"k", "\u212a"}, {"s", "ſ"}} {
		_, conflicts := mergeBy(t, Rules{}, files{}, files{pair[0]: "1"}, files{pair[1]: "2"})
		if len(conflicts) != 2 || conflicts[0].Kind != Case {
			t.Errorf("conflicts of %q and %q = %v, want two of case", pair[0], pair[1], conflicts)
		}
	}
}

// FuzzText holds merges of texts to their laws.
func FuzzText(f *testing.F) {
	f.Add("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n")
	f.Add("", "a", "b\n")
	f.Add("a\na\na\n", "a\na\n", "a\na\na\na\n")
	f.Fuzz(func(t *testing.T, base, ours, theirs string) {
		merged, conflicts := Text(base, ours, theirs)
		swapped, others := Text(base, theirs, ours)
		if merged != swapped || len(conflicts) != len(others) {
			t.Errorf("Text() = %q, %d conflicts; with the sides swapped %q, %d", merged, len(conflicts), swapped, len(others))
		}
		if got, conflicts := Text(base, ours, base); got != ours || len(conflicts) > 0 {
			t.Errorf("Text(one side) = %q, %v, want %q", got, conflicts, ours)
		}
		if got, conflicts := Text(base, ours, ours); got != ours || len(conflicts) > 0 {
			t.Errorf("Text(the same) = %q, %v, want %q", got, conflicts, ours)
		}
		for side, decide := range decisions {
			if decided := decidedText(base, ours, theirs, decide); len(conflicts) == 0 && decided != merged {
				t.Errorf("decidedText(%s) = %q, want %q as nothing conflicts", side, decided, merged)
			}
		}
	})
}

// FuzzStates holds merges of state documents to their laws.
func FuzzStates(f *testing.F) {
	f.Add(`{"vars":{"a":1}}`, `{"vars":{"a":2}}`, `{"vars":{"a":1,"b":[null,1.0]}}`)
	f.Add(`{}`, `{"steps":{"a":{"outputs_ref":"x"}}}`, `{"steps":{"a":{"outputs":{"~/":1e400}}}}`)
	f.Fuzz(func(t *testing.T, base, ours, theirs string) {
		doc, conflicts, err := States([]byte(base), []byte(ours), []byte(theirs))
		if err != nil {
			return
		}
		swapped, others, err := States([]byte(base), []byte(theirs), []byte(ours))
		if err != nil || string(doc) != string(swapped) || len(conflicts) != len(others) {
			t.Errorf("States() = %s, %v; with the sides swapped %s, %v, %v", doc, conflicts, swapped, others, err)
		}
		if doc == nil {
			return
		}
		again, conflicts, err := States([]byte(ours), doc, []byte(ours))
		if err != nil || len(conflicts) > 0 || string(again) != string(doc) {
			t.Errorf("States(ours, merged, ours) = %s, %v, %v, want %s", again, conflicts, err, doc)
		}
	})
}
