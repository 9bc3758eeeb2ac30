package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
)

// FuzzID checks that an id has one form only, and that any other text is not found.
func FuzzID(f *testing.F) {
	f.Add("run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f")
	f.Add("run_0198C0DE7a2b7c3d8e4f5a6b7c8d9e0f")
	f.Add("step_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f")
	f.Add("run_0198c0de-7a2b-7c3d-8e4f-5a6b7c8d9e0f")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := RunID.Parse(s)
		if err != nil && !errors.Is(err, fault.NotFound) {
			t.Errorf("Parse(%q) = %v, want fault.NotFound", s, err)
		}
		if err == nil && RunID.Format(id) != s {
			t.Errorf("Parse(%q) is %s, want a text of one form", s, RunID.Format(id))
		}
	})
}

// FuzzBadFile checks that a path which is let through stays below the folder it is for, and is
// the same after it was cleaned.
func FuzzBadFile(f *testing.F) {
	for _, s := range []string{"a/b", "../a", "a/../../b", "/a", "a//b", "a/.", "..", "a\x00b", "a\\..\\b", ".nofx/x", "a/\u202e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if BadFile(s) != "" {
			return
		}
		const base = "/workspace"
		if got := filepath.Join(base, s); !strings.HasPrefix(got, base+"/") || filepath.Clean(s) != s || strings.ContainsRune(s, 0) || !filepath.IsLocal(s) {
			t.Errorf("BadFile(%q) = nothing, and it is %s in %s", s, got, base)
		}
		if os.PathSeparator == '/' && BadPath(s) == "" && strings.Contains("/"+s+"/", "/"+reservedName+"/") {
			t.Errorf("BadPath(%q) = nothing, want the reserved element told", s)
		}
	})
}
