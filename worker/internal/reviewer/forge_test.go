package reviewer

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/llm"
)

// strictForge accepts comments as a forge does: on lines that are in the diff, ranges within one
// hunk. It reads git's output by itself and shares nothing with what it judges.
type strictForge map[string][]forgeHunk // by path

// forgeHunk has the lines of a hunk that take comments, by side and number.
type forgeHunk map[string]string

var forgeHeading = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@`)

func newStrictForge(t testing.TB, diff string) strictForge {
	f := strictForge{}
	var oldPath, path string
	var old, now, oldLeft, nowLeft int
	number := func(s string) int {
		if s == "" {
			return 1
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	name := func(s string) string {
		s = strings.TrimSuffix(s, "\t")
		if unquoted, err := strconv.Unquote(s); err == nil {
			s = unquoted
		}
		_, s, _ = strings.Cut(s, "/")
		return s
	}
	for _, line := range strings.Split(diff, "\n") {
		if oldLeft > 0 || nowLeft > 0 {
			hunks := f[path]
			h := hunks[len(hunks)-1]
			text := strings.TrimSuffix(line[min(1, len(line)):], "\r")
			switch {
			case strings.HasPrefix(line, "+"):
				h[fmt.Sprint("R", now)] = text
				now, nowLeft = now+1, nowLeft-1
			case strings.HasPrefix(line, "-"):
				h[fmt.Sprint("L", old)] = text
				old, oldLeft = old+1, oldLeft-1
			case strings.HasPrefix(line, `\`):
			default:
				h[fmt.Sprint("R", now)], h[fmt.Sprint("L", old)] = text, text
				old, oldLeft, now, nowLeft = old+1, oldLeft-1, now+1, nowLeft-1
			}
			continue
		}
		switch m := forgeHeading.FindStringSubmatch(line); {
		case m != nil:
			old, oldLeft, now, nowLeft = number(m[1]), number(m[2]), number(m[3]), number(m[4])
			f[path] = append(f[path], forgeHunk{})
		case strings.HasPrefix(line, "--- "):
			oldPath = name(line[4:])
		case line == "+++ /dev/null":
			path = oldPath
		case strings.HasPrefix(line, "+++ "):
			path = name(line[4:])
		}
	}
	return f
}

// accept returns why a comment is refused, or nil.
func (f strictForge) accept(c Comment) error {
	hunks, ok := f[c.Path]
	switch {
	case !ok:
		return fmt.Errorf("%s is not in the diff", c.Path)
	case c.Line == 0 && (c.Side != "" || c.StartLine != 0):
		return fmt.Errorf("a comment of a file has a side or a line")
	case c.Line == 0:
		return nil
	case c.Side != review.Left && c.Side != review.Right:
		return fmt.Errorf("the side is %q", c.Side)
	case c.StartLine != 0 && c.StartLine >= c.Line:
		return fmt.Errorf("the range %d to %d is none", c.StartLine, c.Line)
	}
	at := func(n int) string { return fmt.Sprint(string(c.Side[:1]), n) }
	for _, h := range hunks {
		if _, ok := h[at(c.Line)]; ok {
			if _, ok := h[at(c.StartLine)]; c.StartLine != 0 && !ok {
				return fmt.Errorf("%s is not in the hunk of %s", at(c.StartLine), at(c.Line))
			}
			return nil
		}
	}
	return fmt.Errorf("%s:%s is not in the diff", c.Path, at(c.Line))
}

// erring is a model that names lines, some of them wrong. The title says which line it means,
// where it knows.
func erring(r llm.Request) (llm.Response, error) {
	seed := fnv.New64a()
	seed.Write([]byte(r.Parts[0].Name + r.Parts[0].Text))
	random := rand.New(rand.NewPCG(seed.Sum64(), 1))
	var found []Answered
	for _, part := range r.Parts {
		hunks, err := ReadNumbered(part.Text)
		if err != nil || !part.Untrusted {
			continue
		}
		for range 4 {
			h := hunks[random.IntN(len(hunks))]
			l := h.Lines[random.IntN(len(h.Lines))]
			if len(found) == MaxAnswered || strings.TrimSpace(l.Text) == "" {
				continue
			}
			side, n := l.Place()
			a := Answered{
				Path: part.Name, Side: side, Line: n, Quote: cut(l.Text, 500), Body: "b", Severity: review.Low, Confidence: 0.5, Category: review.Style,
				Title: fmt.Sprintf("honest %s %d", side, n),
			}
			if len(l.Text) > 500 {
				a.Title = "long"
			}
			switch random.IntN(10) {
			case 0: // near by
				a.Line, a.Title = max(1, n+random.IntN(7)-3), "near"
			case 1: // anywhere
				a.Line, a.Title = 1+random.IntN(5000), "anywhere"
			case 2: // the other side
				a.Side, a.Title = review.Left, "side"
			case 3: // made up
				a.Quote, a.Line, a.Title = "made up", 1+random.IntN(100), "made up"
			case 4: // a range, mostly of several hunks
				start := 1 + random.IntN(n+3)
				a.StartLine, a.Title = &start, "range"
			case 5: // a short range
				start := max(1, n-random.IntN(4))
				a.StartLine, a.Title = &start, "short range"
			case 6: // another file
				a.Path, a.Title = "no/such/file.go", "file"
			}
			found = append(found, a)
		}
	}
	return says(found...)
}

// realDiffs calls use with at least n diffs that people made: of the history of this repository as far
// as it is there, of modules at two versions as far as they are, and of the standard library's
// files for one system or processor and another.
func realDiffs(t *testing.T, n int, use func(name, diff string)) map[string]int {
	counts := map[string]int{}
	emit := func(source, name, diff string) {
		if len(diff) > 0 && len(diff) < 1<<20 {
			counts[source]++
			use(source+" "+name, diff)
		}
	}
	git := func(dir string, args ...string) string {
		cmd := exec.Command("git", append([]string{"-c", "core.quotePath=false"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		out, err := cmd.Output()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !(ok && exit.ExitCode() == 1) { // 1: they differ
			t.Logf("git %v: %v", args, err)
			return ""
		}
		return string(out)
	}
	for _, commit := range strings.Fields(git("", "rev-list", "--no-merges", "--max-count=150", "HEAD")) {
		if git("", "rev-parse", "--quiet", "--verify", commit+"^") != "" {
			emit("commit", commit, git("", "diff", "-U3", "-M", "-C", "--no-color", "--no-ext-diff", commit+"^", commit))
		}
	}
	env, err := exec.Command("go", "env", "GOMODCACHE", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	cache, root, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	versions := map[string][]string{}
	for _, depth := range []string{"*/*@*", "*/*/*@*", "*/*/*/*@*"} {
		dirs, err := filepath.Glob(filepath.Join(cache, depth))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			module, _, _ := strings.Cut(dir, "@")
			rel, err := filepath.Rel(cache, dir)
			if err != nil {
				t.Fatal(err)
			}
			versions[module] = append(versions[module], rel)
		}
	}
	for _, module := range slices.Sorted(maps.Keys(versions)) {
		if dirs := versions[module]; counts["module"] < 25 && len(dirs) > 1 {
			emit("module", dirs[0], git(cache, "diff", "--no-index", "-U3", "-M", "--no-color", "--no-ext-diff", dirs[0], dirs[1]))
		}
	}
	src := filepath.Join(root, "src")
	last := map[string]string{}
	err = filepath.WalkDir(src, func(path string, d os.DirEntry, err error) error {
		total := counts["commit"] + counts["module"] + counts["variant"]
		if err != nil || d.IsDir() || total >= n && counts["variant"] >= 100 {
			return err
		}
		if path, err = filepath.Rel(src, path); err != nil {
			return err
		}
		if m := variant.FindStringSubmatch(path); m != nil {
			if other := last[m[1]]; other != "" {
				emit("variant", path, git(src, "diff", "--no-index", "-U3", "--no-color", "--no-ext-diff", other, path))
			}
			last[m[1]] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// variant matches Go files for one system or processor.
var variant = regexp.MustCompile(`^(.*?)_(?:aix|android|darwin|dragonfly|freebsd|illumos|ios|js|linux|netbsd|openbsd|plan9|solaris|wasip1|windows|unix|bsd|other|stub|posix|386|amd64|arm|arm64|loong64|mips\w*|ppc64x|riscv64|s390x|wasm)\.go$`)

// TestEveryAnchorIsAccepted reviews real diffs with a model that names lines, some of them
// wrong: no comment is outside of the diff, and none that is right is moved or lost.
func TestEveryAnchorIsAccepted(t *testing.T) {
	t.Parallel()
	var lines, files, honest, moved, suspected int
	var counts Counts
	sources := realDiffs(t, 300, func(name, diff string) {
		in := newInput(diff)
		in.Default.Limits = review.Limits{Files: 10000, ChangedLines: 1 << 30, InlineComments: 1 << 30, Tokens: 1 << 40, CostUSD: 1e9}
		r := newReviewer(erring, &memory{})
		r.Verify, r.Redact = false, func(s string) string { return s } // a masked line has another text
		out, err := r.Review(t.Context(), in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out.Result.Verdict == review.Error {
			t.Errorf("%s: Review = %+v, want no error", name, out.Result.Reasons)
			return
		}
		forge := newStrictForge(t, diff)
		for _, c := range out.Plan.Comments {
			if err := forge.accept(c); err != nil {
				t.Errorf("%s: the forge refuses a comment: %v", name, err)
			}
			if c.Line == 0 {
				files++
			} else {
				lines++
			}
		}
		counts.add(out.Counts)
		for _, o := range out.Occurrences {
			if o.Finding.RuleID == InjectionRule {
				suspected++
				t.Logf("%s: suspected in %s: %.200s", name, o.Finding.Anchor.Path, o.Finding.Anchor.Text)
			}
			var side review.Side
			var n int
			if _, err := fmt.Sscanf(o.Finding.Title, "honest %s %d", &side, &n); err != nil {
				continue
			}
			honest++
			if o.Finding.Anchor.Side != side || o.Finding.Anchor.Line != n {
				moved++
				t.Errorf("%s: an honest finding at %s %d is at %+v", name, side, n, o.Finding.Anchor)
			}
		}
	})
	total := sources["commit"] + sources["module"] + sources["variant"]
	t.Logf("%d diffs (%d commits, %d modules at two versions, %d pairs of files of the standard library): %d comments at lines, %d of files, 0 outside; %d honest findings, %d moved; %d suspected injections; answers %+v",
		total, sources["commit"], sources["module"], sources["variant"], lines, files, honest, moved, suspected, counts)
	if total < 300 || lines < 1000 {
		t.Errorf("%d diffs with %d comments, want 300 and 1000 at least", total, lines)
	}
}

// TestGeneratedDiffs reviews diffs of files with all that is odd in diffs, with the same model.
func TestGeneratedDiffs(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"plain.go", "with spaces .txt", "grüße/ß.go", "quote\"d.txt", "tab\there.txt", "a/b/c/d.go", "-dash.txt", "+plus.txt", "@@ -1 +1 @@.txt", "日本.py"}
	text := func() string {
		var b strings.Builder
		end := []string{"\n", "\r\n"}[random.IntN(2)]
		for range random.IntN(60) {
			b.WriteString([]string{"x", "\ty()", "-- minus", "++ plus", "@@ -1,2 +3,4 @@", "\\ No newline at end of file", "", " ", "diff --git a/x b/x", "--- a/x", "ünï", "\xff\xfe", "z\u2028z", "a\rb"}[random.IntN(14)])
			fmt.Fprintf(&b, "%d%s", random.IntN(4), end)
		}
		return strings.TrimSuffix(b.String(), []string{"", end}[random.IntN(2)])
	}
	there := map[string]bool{}
	lines, files := 0, 0
	base := r.commit()
	for range 40 {
		for range 1 + random.IntN(6) {
			name := names[random.IntN(len(names))]
			switch other := names[random.IntN(len(names))]; {
			case there[name] && random.IntN(4) == 0:
				r.write(name, "-")
				there[name] = false
			case there[name] && !there[other] && random.IntN(3) == 0:
				r.git("add", "-A")
				if err := os.MkdirAll(filepath.Dir(filepath.Join(r.dir, other)), 0o755); err != nil {
					t.Fatal(err)
				}
				r.git("mv", "--", name, other)
				there[name], there[other] = false, true
			default:
				r.write(name, text())
				there[name] = true
			}
		}
		head := r.commit()
		diff := r.git("diff", "-U3", "-M", "--text", base, head)
		base = head
		in := newInput(diff)
		in.Default.Limits.InlineComments = 1000
		rev := newReviewer(erring, &memory{})
		rev.Verify = false
		out := mustReview(t, rev, in)
		if out.Result.Verdict == review.Error {
			t.Fatalf("Review = %+v of\n%s", out.Result.Reasons, diff)
		}
		forge := newStrictForge(t, diff)
		for _, c := range out.Plan.Comments {
			if err := forge.accept(c); err != nil {
				t.Errorf("the forge refuses a comment: %v, of\n%s", err, diff)
			}
			if c.Line > 0 {
				lines++
			} else {
				files++
			}
		}
	}
	t.Logf("%d comments at lines, %d of files, 0 outside", lines, files)
	if lines < 100 {
		t.Errorf("%d comments, want 100 at least", lines)
	}
}

// TestStrictForge: the judge refuses what forges do.
func TestStrictForge(t *testing.T) {
	t.Parallel()
	f := newStrictForge(t, twoHunks)
	for _, test := range []struct {
		c  Comment
		ok bool
	}{
		{Comment{Path: "a.go", Side: review.Right, Line: 2}, true},
		{Comment{Path: "a.go", Side: review.Left, Line: 2}, true},
		{Comment{Path: "a.go", Side: review.Right, StartLine: 2, Line: 4}, true},
		{Comment{Path: "a.go"}, true},
		{Comment{Path: "b.go"}, false},
		{Comment{Path: "a.go", Side: review.Right, Line: 20}, false},
		{Comment{Path: "a.go", Side: review.Right, StartLine: 3, Line: 43}, false},
		{Comment{Path: "a.go", Side: review.Right, StartLine: 4, Line: 4}, false},
		{Comment{Path: "a.go", Line: 2}, false},
	} {
		if err := f.accept(test.c); (err == nil) != test.ok {
			t.Errorf("accept(%+v) = %v, want it accepted: %v", test.c, err, test.ok)
		}
	}
}
