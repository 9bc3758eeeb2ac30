package merge

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		base, ours, theirs, want string
		conflicts                int
	}{
		"nothing":                 {"a\nb\n", "a\nb\n", "a\nb\n", "a\nb\n", 0},
		"one side":                {"a\nb\nc\n", "a\nB\nc\n", "a\nb\nc\n", "a\nB\nc\n", 0},
		"both, apart":             {"a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", "A\nb\nC\n", 0},
		"both, adjacent":          {"a\nb\nc\n", "A\nb\nc\n", "a\nB\nc\n", "", 1},
		"both the same":           {"a\nb\nc\n", "a\nB\nc\n", "a\nB\nc\n", "a\nB\nc\n", 0},
		"both differently":        {"a\nb\nc\n", "a\nB\nc\n", "a\nX\nc\n", "", 1},
		"inserts at one point":    {"a\nb\n", "a\nx\nb\n", "a\ny\nb\n", "", 1},
		"same insert":             {"a\nb\n", "a\nx\nb\n", "a\nx\nb\n", "a\nx\nb\n", 0},
		"delete against change":   {"a\nb\nc\n", "a\nc\n", "a\nB\nc\n", "", 1},
		"insert beside a change":  {"a\nb\nc\n", "a\nb\nx\nc\n", "a\nB\nc\n", "", 1},
		"no line end at the end":  {"a\nb", "a\nb", "A\nb", "A\nb", 0},
		"a line end is a change":  {"a\nb", "a\nb\n", "a\nB", "", 1},
		"from nothing":            {"", "a\n", "b\n", "", 1},
		"from nothing, the same":  {"", "a\n", "a\n", "a\n", 0},
		"two conflicts":           {"a\nm\nn\nb\n", "A\nm\nn\nB\n", "x\nm\nn\ny\n", "", 2},
		"equal lines, one more":   {"x\nx\nx\n", "x\nx\nx\nx\n", "x\nx\n", "", 1},
		"other ends of lines":     {"a\r\nb\r\n", "a\nb\n", "a\r\nB\r\n", "", 1},
		"a change in a long text": {strings.Repeat("l\n", 50) + "m\n", strings.Repeat("l\n", 50) + "M\n", "k\n" + strings.Repeat("l\n", 50) + "m\n", "k\n" + strings.Repeat("l\n", 50) + "M\n", 0},
	} {
		for _, swap := range []bool{false, true} {
			ours, theirs := tt.ours, tt.theirs
			if swap {
				ours, theirs = theirs, ours
			}
			got, conflicts := Text(tt.base, ours, theirs)
			if got != tt.want || len(conflicts) != tt.conflicts {
				t.Errorf("Text(%s, swapped %t) = %q, %d conflicts %+v, want %q, %d", name, swap, got, len(conflicts), conflicts, tt.want, tt.conflicts)
			}
		}
	}
}

// generator makes texts of lines from a few words, so that lines repeat, and edits of
// them.
type generator struct{ *rand.Rand }

func (g generator) text() []string {
	words := 3 + g.IntN(40)
	list := make([]string, g.IntN(40))
	for i := range list {
		list[i] = fmt.Sprintf("line %d", g.IntN(words))
	}
	return list
}

// edited returns a text with some lines changed, deleted, inserted or moved.
func (g generator) edited(text []string, most int) []string {
	out := append([]string{}, text...)
	for range 1 + g.IntN(most) {
		at := 0
		if len(out) > 0 {
			at = g.IntN(len(out))
		}
		switch n := g.IntN(10); {
		case n < 4 && len(out) > 0:
			out[at] = fmt.Sprintf("new %d", g.IntN(30))
		case n < 6 && len(out) > 0:
			out = append(out[:at:at], out[min(len(out), at+1+g.IntN(3)):]...)
		case n < 9:
			more := make([]string, 1+g.IntN(3))
			for i := range more {
				more[i] = fmt.Sprintf("line %d", g.IntN(40))
			}
			out = append(append(append([]string{}, out[:at]...), more...), out[at:]...)
		case len(out) > 1:
			to := g.IntN(len(out))
			out[at], out[to] = out[to], out[at]
		}
	}
	return out
}

func joined(text []string, end bool) string {
	s := strings.Join(text, "\n")
	if end && s != "" {
		s += "\n"
	}
	return s
}

// TestTextAgreesWithGit compares merges with those of git merge-file, of as many cases as
// NOFX_TEST_MERGES says. Where git conflicts there is a conflict, and where both merge the
// texts are equal. A few conflict here alone, since a change can be read in several ways.
func TestTextAgreesWithGit(t *testing.T) {
	t.Parallel()
	cases := 1000
	if n, err := strconv.Atoi(os.Getenv("NOFX_TEST_MERGES")); err == nil {
		cases = n
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var both, clean, stricter, changed, silent, other int
	g := generator{rand.New(rand.NewPCG(1, 2))}
	for i := range cases {
		text := g.text()
		most := 1 + i%4
		end := g.IntN(10) > 0
		base, ours, theirs := joined(text, end), joined(g.edited(text, most), end), joined(g.edited(text, most), end)
		cmd := exec.CommandContext(t.Context(), "git", "merge-file", "-p", "-q", write("ours", ours), write("base", base), write("theirs", theirs))
		out, err := cmd.Output()
		exit, ok := err.(*exec.ExitError)
		if err != nil && (!ok || exit.ExitCode() >= 128) {
			t.Fatalf("git merge-file = %v", err)
		}
		got, conflicts := Text(base, ours, theirs)
		switch mine := len(conflicts) > 0; {
		case err != nil && mine:
			both++
		case err != nil:
			silent++
			t.Errorf("case %d: Text(%q, %q, %q) = %q, git conflicts:\n%s", i, base, ours, theirs, got, out)
		case mine:
			stricter++
		case got != string(out):
			other++
			t.Errorf("case %d: Text(%q, %q, %q) = %q, git has %q", i, base, ours, theirs, got, out)
		default:
			clean++
			if base != ours && base != theirs && ours != theirs {
				changed++
			}
		}
		if t.Failed() && silent+other > 5 {
			break
		}
	}
	if n := both + clean + stricter; 10*stricter > n || 10*both < 3*n || 10*changed < 3*n {
		t.Errorf("of %d cases %d conflict, %d are changed on both sides and merge, %d conflict here alone: want 30 %% and more, 30 %% and more, 10 %% at most", n, both, changed, stricter)
	}
	t.Logf("%d cases: %d conflict in both, %d merge alike (%d of them changed on both sides), %d conflict here alone, %d in git alone, %d merge differently", cases, both, clean, changed, stricter, silent, other)
}
