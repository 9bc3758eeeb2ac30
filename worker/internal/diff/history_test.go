package diff

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"nofx.dev/shared/tree"
)

// commits reads trees of a repository's history into memory.
type commits struct {
	*git
	*memory
	known map[string]tree.Digest // contents by their ids in git
}

// tree returns the tree of a commit.
func (c *commits) tree(commit string) tree.Digest {
	c.t.Helper()
	w, ids := map[string]string{}, workspace{}
	var unknown bytes.Buffer
	for line := range strings.SplitSeq(strings.TrimSuffix(string(c.run(nil, "ls-tree", "-r", "-z", "--full-tree", commit)), "\x00"), "\x00") {
		fields, p, _ := strings.Cut(line, "\t")
		parts := strings.Fields(fields)
		if len(parts) != 3 || parts[1] != "blob" {
			c.t.Fatalf("ls-tree has %q, want a file", line)
		}
		mode, err := strconv.ParseUint(parts[0], 8, 32)
		if err != nil {
			c.t.Fatal(err)
		}
		ids[p], w[p] = item{mode: tree.Mode(mode)}, parts[2]
		if _, ok := c.known[parts[2]]; !ok {
			c.known[parts[2]] = tree.Digest{}
			fmt.Fprintln(&unknown, parts[2])
		}
	}
	out := bytes.NewBuffer(c.run(unknown.Bytes(), "cat-file", "--batch"))
	for out.Len() > 0 {
		var id, kind string
		var size int
		if _, err := fmt.Fscanf(out, "%s %s %d\n", &id, &kind, &size); err != nil {
			c.t.Fatal(err)
		}
		content := bytes.Clone(out.Next(size))
		out.Next(1)
		d := tree.Sum(content)
		c.known[id], c.files[d] = d, content
	}
	for p, id := range w {
		ids[p] = item{ids[p].mode, string(c.files[c.known[id]])}
	}
	return c.add(ids)
}

// TestHistoryAgreesWithGit compares diffs of this repository's commits with git's: the
// numbers of lines per file, and the tree that git apply makes of one and the patch. With
// NOFX_TEST_DIFFS it is so many pairs, of neighbours and of commits further apart. In a few
// files git finds a line less that has stayed, since it leaves lines out of its search that
// occur often.
func TestHistoryAgreesWithGit(t *testing.T) {
	t.Parallel()
	g := newGit(t)
	g.dir = "."
	root, err := g.try(nil, "rev-parse", "--absolute-git-dir")
	if err != nil {
		t.Skip("this is no repository of git's")
	}
	objects := g.run(nil, "rev-parse", "--path-format=absolute", "--git-path", "objects")
	bare := newGit(t, "GIT_OBJECT_DIRECTORY="+t.TempDir(), "GIT_ALTERNATE_OBJECT_DIRECTORIES="+strings.TrimSpace(string(objects)),
		"GIT_DIR="+strings.TrimSpace(string(root)), "GIT_INDEX_FILE="+t.TempDir()+"/index")
	list := strings.Fields(string(bare.run(nil, "rev-list", "--first-parent", "-n", "600", "HEAD")))
	if len(list) < 2 {
		t.Skip("this repository has no history")
	}
	c := &commits{git: bare, memory: newMemory(), known: map[string]tree.Digest{}}
	wanted := cases(3)
	var pairs, files, equal, fewer, left int
	for i := 0; pairs < wanted; i++ {
		apart := []int{1, 1, 3, 20}[i%4]
		at := i * max(1, (len(list)-21)/wanted) % max(1, len(list)-apart)
		if at+apart >= len(list) {
			break
		}
		from, to := list[at+apart], list[at]
		pairs++
		doc, err := Compute(t.Context(), c.source(), Checkpoint{ID: from, Tree: c.tree(from)}, Checkpoint{ID: to, Tree: c.tree(to)}, Options{})
		if err != nil || doc.Truncated {
			t.Fatalf("Compute(%s, %s) = truncated, %v", from, to, err)
		}
		n := c.compare(from, to, doc)
		files, equal, fewer, left = files+len(doc.Files), equal+n.equal, fewer+n.fewer, left+n.left
		if t.Failed() {
			return
		}
	}
	t.Logf("%d pairs of commits with %d changed files: the lines of %d as git has them, of %d fewer; %d files left out of patches", pairs, files, equal, fewer, left)
	if fewer*50 > equal {
		t.Errorf("the lines of %d files are not as many as git has them, want 2%% of %d at the most", fewer, equal)
	}
}

// agreement is numbers of files: with as many changed lines as git has, with fewer, and
// those that a patch leaves out.
type agreement struct{ equal, fewer, left int }

// compare compares a document with git's own diff of two commits.
func (c *commits) compare(from, to string, doc *Document) (n agreement) {
	c.t.Helper()
	numbers := map[string]Lines{}
	paths := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(string(c.run(nil, "diff", "--numstat", "--no-renames", "-z", from, to)), "\x00"), "\x00") {
		if parts := strings.SplitN(line, "\t", 3); len(parts) == 3 {
			added, _ := strconv.Atoi(parts[0])
			deleted, _ := strconv.Atoi(parts[1])
			numbers[parts[2]] = Lines{added, deleted}
			paths++
		}
	}
	c.run(nil, "read-tree", from)
	var rest bytes.Buffer // what the patch leaves out
	for i := range doc.Files {
		f := &doc.Files[i]
		paths--
		if f.Status == Renamed {
			paths--
		}
		if f.LeftOut() != "" {
			n.left++
			if f.To == nil {
				fmt.Fprintf(&rest, "0 %s\t%s\x00", strings.Repeat("0", 40), f.Path)
			} else {
				fmt.Fprintf(&rest, "%s\x00", strings.TrimSuffix(string(c.run(nil, "ls-tree", "-z", "--full-tree", to, "--", f.Path)), "\x00"))
			}
		}
		if f.Lines == nil {
			continue
		}
		switch got, want := *f.Lines, numbers[f.Path]; {
		case got == want:
			n.equal++
		case got.Added < want.Added && got.Added-got.Deleted == want.Added-want.Deleted:
			n.fewer++
		default:
			c.t.Errorf("%s to %s: %s has lines %+v, git has %+v", from, to, f.Path, got, want)
		}
	}
	if paths != 0 {
		c.t.Errorf("%s to %s: git has %d paths more", from, to, paths)
	}
	if patch := doc.Patch(); bytes.Contains(patch, []byte("\ndiff --git ")) {
		if _, err := c.try(patch, "apply", "--cached", "--whitespace=nowarn", "-"); err != nil {
			c.t.Errorf("%s to %s: %v", from, to, err)
			return n
		}
	}
	c.run(rest.Bytes(), "update-index", "-z", "--index-info")
	got := strings.TrimSpace(string(c.run(nil, "write-tree")))
	if want := strings.TrimSpace(string(c.run(nil, "rev-parse", to+"^{tree}"))); got != want {
		c.t.Errorf("%s to %s: git apply makes tree %s, want %s", from, to, got, want)
	}
	return n
}
