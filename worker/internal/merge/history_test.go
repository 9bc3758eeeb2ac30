package merge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nofx.dev/shared/tree"
)

// repository reads the git repository that this package is in.
type repository struct {
	*testing.T
	objects *bufio.Reader // of git cat-file
	wanted  io.Writer
	oids    map[tree.Digest]string // of files; a digest here is that of the oid
	env     []string               // what git writes goes to a folder of the test
}

func (r *repository) git(args ...string) (string, error) {
	out, err := r.command(args...).Output()
	return strings.TrimSpace(string(out)), err
}

func (r *repository) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(r.Context(), "git", args...)
	cmd.Env = r.env
	return cmd
}

// blob returns the content of a file.
func (r *repository) blob(oid string) []byte {
	fmt.Fprintln(r.wanted, oid)
	head, err := r.objects.ReadString('\n')
	if err != nil {
		r.Fatalf("git cat-file = %v", err)
	}
	size, err := strconv.Atoi(strings.Fields(head)[2])
	if err != nil {
		r.Fatalf("git cat-file %s: %q", oid, head)
	}
	content := make([]byte, size+1)
	if _, err := io.ReadFull(r.objects, content); err != nil {
		r.Fatalf("git cat-file %s = %v", oid, err)
	}
	return content[:size]
}

// treeOf returns the tree of a commit, with its directories in nodes.
func (r *repository) treeOf(commit string, nodes map[tree.Digest][]tree.Entry) tree.Digest {
	list, err := r.git("ls-tree", "-r", "-l", "-z", "--full-tree", commit)
	if err != nil {
		r.Fatalf("git ls-tree %s = %v", commit, err)
	}
	dirs := map[string][]tree.Entry{"": nil}
	for line := range strings.SplitSeq(strings.TrimRight(list, "\x00"), "\x00") {
		facts, name, _ := strings.Cut(line, "\t")
		f := strings.Fields(facts) // mode, type, oid, size
		size, _ := strconv.ParseInt(f[3], 10, 64)
		d := tree.Sum([]byte(f[2]))
		r.oids[d] = f[2]
		mode := map[string]tree.Mode{"100644": tree.File, "100755": tree.Executable, "120000": tree.Symlink}[f[0]]
		dir := strings.TrimPrefix(path.Dir(name), ".")
		for above := dir; above != ""; above = strings.TrimPrefix(path.Dir(above), ".") {
			if _, ok := dirs[above]; !ok {
				dirs[above] = nil
			}
		}
		dirs[dir] = append(dirs[dir], tree.Entry{Name: path.Base(name), Mode: mode, Digest: d, Size: size})
	}
	var build func(at string) tree.Digest
	build = func(at string) tree.Digest {
		entries := dirs[at]
		for dir := range dirs {
			if dir != "" && strings.TrimPrefix(path.Dir(dir), ".") == at {
				entries = append(entries, tree.Entry{Name: path.Base(dir), Mode: tree.Directory, Digest: build(dir)})
			}
		}
		slices.SortFunc(entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
		d := tree.Sum(tree.Encode(entries))
		nodes[d] = entries
		return d
	}
	return build("")
}

// TestTreesAgreeWithGit merges forks of this repository's own history and compares with git
// merge-tree: a fork has commits that followed on one side, and on the other those before
// it taken back. Where git conflicts there is a conflict, and where both merge the trees
// are the same, byte by byte.
func TestTreesAgreeWithGit(t *testing.T) {
	t.Parallel()
	r := &repository{T: t, oids: map[tree.Digest]string{}}
	objects, err := r.git("rev-parse", "--path-format=absolute", "--git-path", "objects")
	if err != nil {
		t.Skipf("git rev-parse = %v: this copy of the code is no repository", err)
	}
	r.env = append(os.Environ(), "GIT_OBJECT_DIRECTORY="+t.TempDir(), "GIT_ALTERNATE_OBJECT_DIRECTORIES="+objects,
		"GIT_AUTHOR_NAME=test", "GIT_AUTHOR_EMAIL=test@localhost", "GIT_COMMITTER_NAME=test", "GIT_COMMITTER_EMAIL=test@localhost")
	log, err := r.git("rev-list", "--first-parent", "--max-count=400", "HEAD")
	commits := strings.Fields(log)
	const pairs, reach = 50, 6
	if err != nil || len(commits) < pairs+2*reach {
		t.Skipf("git rev-list = %d commits, %v: this copy of the repository has no history", len(commits), err)
	}
	cat := r.command("cat-file", "--batch")
	in, _ := cat.StdinPipe()
	out, _ := cat.StdoutPipe()
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	r.objects, r.wanted = bufio.NewReader(out), in
	t.Cleanup(func() { in.Close() })

	var conflicting, clean, stricter int
	for i := range pairs {
		at := reach + i*(len(commits)-2*reach)/pairs
		n := 1 + i%reach
		base, ours, theirs := commits[at], commits[at-n], commits[at+n]
		if theirs, err = r.git("commit-tree", theirs+"^{tree}", "-p", base, "-m", "the commits before taken back"); err != nil {
			t.Fatalf("git commit-tree = %v", err)
		}
		want, err := r.git("-c", "merge.renames=false", "merge-tree", "--write-tree", ours, theirs)
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
			t.Fatalf("git merge-tree of %s and %s = %v", ours, theirs, err)
		}
		nodes := map[tree.Digest][]tree.Entry{}
		m := NewTrees(Source{Nodes: stored(nodes).Nodes, Files: func(_ context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
			files := map[tree.Digest][]byte{}
			for _, d := range digests {
				files[d] = r.blob(r.oids[d])
			}
			return files, nil
		}})
		got, conflicts, mergeErr := m.Merge(t.Context(), r.treeOf(base, nodes), r.treeOf(ours, nodes), r.treeOf(theirs, nodes))
		switch {
		case mergeErr != nil:
			t.Fatalf("Merge() of %s and %s = %v", ours, theirs, mergeErr)
		case err != nil && len(conflicts) == 0:
			t.Errorf("Merge() of %s and %s over %s has no conflict, git has:\n%s", ours, theirs, base, want)
		case err != nil:
			conflicting++
		case len(conflicts) > 0:
			stricter++
		default:
			clean++
			wanted := flat(nodes, r.treeOf(want, nodes))
			maps.Copy(nodes, m.nodes)
			merged := flat(nodes, got)
			for p, e := range wanted {
				g := merged[p]
				same := g.Digest == e.Digest
				if content, made := m.made[g.Digest]; made {
					same = bytes.Equal(content, r.blob(r.oids[e.Digest]))
				}
				if !same || g.Mode != e.Mode {
					t.Errorf("Merge() of %s and %s over %s: %s is not as git merges it", ours, theirs, base, p)
				}
			}
			if len(merged) != len(wanted) {
				t.Errorf("Merge() of %s and %s over %s = %d files, want %d", ours, theirs, base, len(merged), len(wanted))
			}
		}
	}
	t.Logf("%d pairs: %d conflict in both, %d merge alike, %d conflict here alone", pairs, conflicting, clean, stricter)
	if clean == 0 || conflicting == 0 {
		t.Errorf("%d pairs merge and %d conflict, want some of both", clean, conflicting)
	}
}
