package codehosttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// repository is a git repository with a base, a head, and a head that follows it.
type repository struct {
	dir              string
	base, head, next string
	diff, nextDiff   string
	files            []changedFile
	lines, nextLines map[string]commentable
	content          map[string]map[string][]byte // by commit and path
}

type changedFile struct {
	path, old, status, patch string
	added, deleted           int
}

// commentable has the hunk of each line that a comment may be on, by side.
type commentable map[string]map[int]int

// Files of the repository's change. The head adds lines 11 and 12 to main.go and deletes
// what was line 30; the head that follows it adds a first line and takes line 12 back.
const (
	Main    = "main.go"
	Renamed = "pkg/a new name.go"
	Policy  = ".nofx/review.yaml"
)

// theRepository is made once for all forges of a test binary.
var theRepository = sync.OnceValue(func() *repository {
	dir, err := os.MkdirTemp("", "nofx-forge-repository-")
	if err != nil {
		panic(err)
	}
	r := &repository{dir: dir, content: map[string]map[string][]byte{}}
	defer func() { _ = os.RemoveAll(dir) }() // all that is needed is read
	lines := func(from, to int) (all string) {
		for i := from; i <= to; i++ {
			all += fmt.Sprintf("line %d\n", i)
		}
		return all
	}
	r.git("init", "-q", "-b", "main")
	r.write(Main, lines(1, 60))
	r.write("pkg/old.go", "package pkg\n"+lines(1, 20))
	r.write("gone.txt", "a\nb\n")
	r.write("image.bin", "\x00\x01\x02")
	r.write(Policy, "version: 1\n")
	r.base = r.commit("base")
	r.write(Main, lines(1, 10)+"added 11\nadded 12\n"+lines(11, 29)+lines(31, 60))
	r.git("mv", "pkg/old.go", Renamed)
	r.write(Renamed, "package pkg\n"+lines(1, 20)+"no newline <&> at the end é")
	r.git("rm", "-q", "gone.txt")
	r.write("image.bin", "\x00\x01\x03")
	r.write("new.txt", "one\r\ntwo\r\n")
	r.write(Policy, "version: 1\nblock: {severity: critical, confidence: 1}\n")
	r.head = r.commit("head")
	r.write(Main, "first\n"+lines(1, 10)+"added 11\n"+lines(11, 29)+lines(31, 60))
	r.next = r.commit("next")

	r.diff, r.lines = r.git("diff", "-M", r.base, r.head), r.commentable(r.head)
	r.nextDiff, r.nextLines = r.git("diff", "-M", r.base, r.next), r.commentable(r.next)
	for _, c := range []string{r.base, r.head, r.next} {
		r.content[c] = map[string][]byte{}
		for _, p := range strings.Split(strings.TrimSuffix(r.git("ls-tree", "-r", "-z", "--name-only", c), "\x00"), "\x00") {
			r.content[c][p] = []byte(r.git("show", c+":"+p))
		}
	}
	return r
})

func (r *repository) git(args ...string) string {
	cmd := exec.Command("git", append([]string{"-C", r.dir, "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "core.autocrlf=false"}, args...)...) // of this file
	cmd.Env = []string{"HOME=" + r.dir, "PATH=" + os.Getenv("PATH"), "GIT_CONFIG_NOSYSTEM=1"}
	out, err := cmd.Output()
	if err != nil {
		panic(fmt.Sprintf("git %v: %v", args, err))
	}
	return string(out)
}

func (r *repository) write(path, text string) {
	at := filepath.Join(r.dir, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		panic(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

func (r *repository) commit(subject string) string {
	r.git("add", "-A")
	r.git("commit", "-q", "-m", subject)
	return strings.TrimSpace(r.git("rev-parse", "HEAD"))
}

var hunkHeading = regexp.MustCompile(`^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@`)

// commentable reads which lines git shows, file by file, and lists the files.
func (r *repository) commentable(head string) map[string]commentable {
	all := map[string]commentable{}
	fields := strings.Split(r.git("diff", "-M", "-z", "--name-status", r.base, head), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		f := changedFile{path: fields[i+1], status: map[byte]string{'A': "added", 'M': "modified", 'D': "removed", 'R': "renamed"}[fields[i][0]]}
		paths := []string{f.path}
		if f.status == "renamed" {
			f.old, f.path = fields[i+1], fields[i+2]
			paths = append(paths, f.path)
			i++
		}
		text := r.git(append([]string{"diff", "-M", r.base, head, "--"}, paths...)...)
		c := commentable{"LEFT": {}, "RIGHT": {}}
		hunk, left, right := 0, 0, 0
		for _, line := range strings.SplitAfter(text, "\n") {
			if m := hunkHeading.FindStringSubmatch(line); m != nil {
				hunk++
				left, _ = strconv.Atoi(m[1])
				right, _ = strconv.Atoi(m[2])
				f.patch += line
				continue
			}
			if hunk == 0 || line == "" {
				continue
			}
			f.patch += line
			if line[0] != '+' && line[0] != '\\' {
				c["LEFT"][left] = hunk
				left++
			}
			if line[0] != '-' && line[0] != '\\' {
				c["RIGHT"][right] = hunk
				right++
			}
			switch line[0] {
			case '+':
				f.added++
			case '-':
				f.deleted++
			}
		}
		f.patch = strings.TrimSuffix(f.patch, "\n")
		all[f.path] = c
		if head == r.head {
			r.files = append(r.files, f)
		}
	}
	return all
}
