package edit_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/worker/internal/edit"
)

// Whatever a model answers, it is carried out or refused in words, and nothing
// changes outside of the workspace, in .git or in what is reserved.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"summary":"s","files":[{"path":"a","action":"write","content":"x","edits":null},{"path":"b","action":"delete","content":null,"edits":null}]}`,
		`{"summary":"s","files":[{"path":"b","action":"edit","content":null,"edits":[{"search":"one","replace":"two"},{"search":"two","replace":""}]}]}`,
		`{"summary":"","files":[{"path":"../x","action":"write","content":"x","edits":null}]}`,
		`{"summary":"","files":[{"path":"link/x","action":"write","content":"x","edits":null}]}`,
		`{"summary":"","files":[{"path":".git/x","action":"write","content":"x","edits":null}]}`,
		"```json\n{}\n```", `{"files":[]}`, ``,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		top := t.TempDir()
		dir := filepath.Join(top, "workspace")
		for name, text := range map[string]string{"workspace/b": "one\n", "workspace/.git/config": "x", "outside/x": "x"} {
			file := filepath.Join(top, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("../outside", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		guarded := func() map[string]string {
			all := tree(t, top)
			maps.DeleteFunc(all, func(name, _ string) bool {
				return strings.HasPrefix(name, "workspace/") && !strings.HasPrefix(name, "workspace/.git/")
			})
			return all
		}
		before := tree(t, top)
		a, err := edit.Parse(text)
		var changes []edit.Change
		if err == nil {
			changes, err = edit.Prepare(root, a, nil)
		}
		if err != nil {
			if diff := cmp.Diff(before, tree(t, top)); diff != "" {
				t.Errorf("a refused answer changed (-before +after):\n%s", diff)
			}
			return
		}
		was := guarded()
		if err := edit.Apply(root, changes); err != nil {
			if diff := cmp.Diff(before, tree(t, top)); diff != "" {
				t.Errorf("Apply = %v, which changed (-before +after):\n%s", err, diff)
			}
		}
		if diff := cmp.Diff(was, guarded()); diff != "" {
			t.Errorf("what may not change did (-before +after):\n%s", diff)
		}
	})
}
