package tool

import (
	"encoding/pem"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"nofx.dev/shared/run"
)

// gitIn runs git as a developer would, outside of what is tested.
func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// origin is a repository with three commits: first, then v1 (tagged) on main, and
// side on a branch of that name.
type origin struct {
	dir              string
	first, v1, aside string
}

// oddRefs are branches that are named like something else.
var oddRefs = []string{"fix/#12-x", "größe", "x,y", "_dev", "+plus", "tag", "deadbeef", "a'b$(id)"}

func newOrigin(t *testing.T) origin {
	t.Helper()
	o := origin{dir: filepath.Join(t.TempDir(), "a repo")}
	writeTo(t, o.dir, "README", "one")
	gitIn(t, o.dir, "init", "--quiet", "--initial-branch=main")
	commit := func(text string) string {
		writeTo(t, o.dir, "README", text)
		gitIn(t, o.dir, "add", "README")
		gitIn(t, o.dir, "commit", "--quiet", "-m", text)
		return gitIn(t, o.dir, "rev-parse", "HEAD")
	}
	o.first, o.v1 = commit("first"), commit("v1")
	gitIn(t, o.dir, "tag", "-a", "-m", "tagged", "v1")
	gitIn(t, o.dir, "checkout", "--quiet", "-b", "side")
	o.aside = commit("side")
	gitIn(t, o.dir, "checkout", "--quiet", "main")
	for _, ref := range oddRefs {
		gitIn(t, o.dir, "branch", "--", ref, o.aside)
	}
	gitIn(t, o.dir, "tag", "@scope/pkg@1.0.0", o.first)
	gitIn(t, o.dir, "branch", "v1", o.first)
	return o
}

func (o origin) url() string { return (&url.URL{Scheme: "file", Path: o.dir}).String() }

func TestCheckout(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	all, two := 0, 2
	type test struct {
		in      run.CheckoutInputs
		commit  string
		history string // number of commits
	}
	tests := map[string]test{
		"default branch":         {run.CheckoutInputs{}, o.v1, "1"},
		"branch":                 {run.CheckoutInputs{Ref: "side"}, o.aside, "1"},
		"annotated tag":          {run.CheckoutInputs{Ref: "v1"}, o.v1, "1"},
		"commit":                 {run.CheckoutInputs{Ref: o.first}, o.first, "1"},
		"short commit":           {run.CheckoutInputs{Ref: o.first[:10]}, o.first, "1"},
		"branch of a tag's name": {run.CheckoutInputs{Ref: "refs/heads/v1"}, o.first, "1"},
		"full ref name":          {run.CheckoutInputs{Ref: "refs/heads/side"}, o.aside, "1"},
		"some history":           {run.CheckoutInputs{Ref: "side", Depth: &two}, o.aside, "2"},
		"all history":            {run.CheckoutInputs{Ref: "side", Depth: &all}, o.aside, "3"},
		"scoped tag":             {run.CheckoutInputs{Ref: "@scope/pkg@1.0.0"}, o.first, "1"},
		"folder":                 {run.CheckoutInputs{Path: "src/app"}, o.v1, "1"},
		"beside old files":       {run.CheckoutInputs{Path: "old"}, o.v1, "1"},
	}
	for _, ref := range oddRefs {
		tests["branch "+ref] = test{run.CheckoutInputs{Ref: ref}, o.aside, "1"}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.in.URL = o.url()
			c, log := newCall(t, "git:checkout", tt.in)
			writeTo(t, c.Workspace, "old/file", "mine")
			r, err := developer(Config{GitAllow: []string{"file:" + filepath.Dir(o.dir)}}).Run(t.Context(), c)
			if err != nil || r.Outputs["commit"] != tt.commit {
				t.Fatalf("Run(%+v) = %+v, %v, want commit %s\n%s", tt.in, r.Outputs, err, tt.commit, log)
			}
			dir := filepath.Join(c.Workspace, tt.in.Path)
			if got := gitIn(t, dir, "rev-parse", "HEAD"); got != tt.commit {
				t.Errorf("HEAD = %s, want %s", got, tt.commit)
			}
			if got := gitIn(t, dir, "rev-list", "--count", "HEAD"); got != tt.history {
				t.Errorf("%s commits are there, want %s", got, tt.history)
			}
			if got := gitIn(t, dir, "status", "--porcelain", "--untracked-files=no"); got != "" {
				t.Errorf("files differ from the commit: %s", got)
			}
			if hooks, _ := os.ReadDir(filepath.Join(dir, ".git", "hooks")); len(hooks) > 0 {
				t.Errorf("%d hooks came along", len(hooks))
			}
			if strings.Contains(log.String(), "fatal") || !strings.Contains(log.String(), tt.commit) {
				t.Errorf("log = %q, want the commit and no complaint", log)
			}
			if r.Usage.MaxRSSBytes == 0 {
				t.Errorf("usage = %+v, want memory in it", r.Usage)
			}
		})
	}
}

func TestCheckoutFails(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	allowed := filepath.Dir(o.dir)
	beside := t.TempDir()
	for link, target := range map[string]string{filepath.Join(allowed, "escape"): beside, filepath.Join(beside, "inside"): o.dir} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		in     run.CheckoutInputs
		class  run.FailureClass
		reason string
	}{
		"no such ref":          {run.CheckoutInputs{URL: o.url(), Ref: "nowhere"}, run.ClassTool, "find remote ref nowhere"},
		"no such commit":       {run.CheckoutInputs{URL: o.url(), Ref: strings.Repeat("ab", 20)}, run.ClassTool, "there is no commit " + strings.Repeat("ab", 20)},
		"no such short commit": {run.CheckoutInputs{URL: o.url(), Ref: "abcdef1"}, run.ClassTool, "there is no commit abcdef1, or more than one that begins so"},
		"no such repository":   {run.CheckoutInputs{URL: o.url() + "-not"}, run.ClassTool, "does not exist"},
		"no repository there":  {run.CheckoutInputs{URL: "file://" + allowed}, run.ClassTool, "git fetch ended"},
		"file in the way":      {run.CheckoutInputs{URL: o.url()}, run.ClassTool, "README"},
		"repository there":     {run.CheckoutInputs{URL: o.url(), Path: "repo"}, run.ClassInvalid, "already"},
		"path through a link":  {run.CheckoutInputs{URL: o.url(), Path: "out/repo"}, run.ClassInvalid, "out/repo"},
		"other folder":         {run.CheckoutInputs{URL: "file://" + beside}, run.ClassPolicy, "not in a folder allowed"},
		"folder not there":     {run.CheckoutInputs{URL: "file://" + beside + "/none"}, run.ClassPolicy, "not in a folder allowed"},
		"folder by name only":  {run.CheckoutInputs{URL: "file://" + allowed + "-other"}, run.ClassPolicy, "not in a folder allowed"},
		"climbs out":           {run.CheckoutInputs{URL: "file://" + allowed + "/../" + filepath.Base(filepath.Dir(beside)) + "/x"}, run.ClassPolicy, "not in a folder allowed"},
		"link out of a folder": {run.CheckoutInputs{URL: "file://" + allowed + "/escape"}, run.ClassPolicy, "not in a folder allowed"},
		"other machine":        {run.CheckoutInputs{URL: "file://elsewhere" + o.dir}, run.ClassPolicy, "not in a folder allowed"},
		"other host":           {run.CheckoutInputs{URL: "https://example.com/x.git"}, run.ClassPolicy, "repositories of example.com"},
		"other port":           {run.CheckoutInputs{URL: "https://example.org:8443/x.git"}, run.ClassPolicy, "repositories of example.org:8443"},
		"host as a user":       {run.CheckoutInputs{URL: "https://example.org:s3cret@example.com/x.git"}, run.ClassPolicy, "leave them out"},
		"other scheme":         {run.CheckoutInputs{URL: "ext::sh -c id"}, run.ClassPolicy, "https or file"},
		"no address":           {run.CheckoutInputs{URL: "https://a b"}, run.ClassInvalid, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, log := newCall(t, "git:checkout", tt.in)
			writeTo(t, c.Workspace, "repo/.git/HEAD", "")
			if name == "file in the way" {
				writeTo(t, c.Workspace, "README", "mine")
			}
			if err := os.Symlink("/", filepath.Join(c.Workspace, "out")); err != nil {
				t.Fatal(err)
			}
			_, err := developer(Config{GitAllow: []string{"example.org", "file:" + allowed}}).Run(t.Context(), c)
			wantFailure(t, name, err, tt.class, tt.reason)
			if err != nil && (strings.Contains(err.Error()+log.String(), "s3cret") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("Run = %v with log %q", err, log)
			}
		})
	}
}

// Whatever files are called, and however their lines end, they are as they were
// committed.
func TestCheckoutOfOddNames(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("file systems elsewhere do not take all of these names")
	}
	dir := filepath.Join(t.TempDir(), "repo")
	files := map[string]string{
		"README": "a", "readme": "b", "sp ace/q": "q", "crlf.txt": "a\r\nb\r\n", "empty": "", "-dash": "n", `d/back\slash`: "x", "größe": "g", "caf\xe9": "l", "new\nline": "w",
	}
	for name, text := range files {
		writeTo(t, dir, name, text)
	}
	if err := os.Symlink("../../outside", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	repositoryWith(t, dir, nil, nil)
	c, log := newCall(t, "git:checkout", run.CheckoutInputs{URL: "file://" + dir})
	if _, err := developer(Config{GitAllow: []string{"file:" + dir}}).Run(t.Context(), c); err != nil {
		t.Fatalf("Run = %v\n%s", err, log)
	}
	if status := gitIn(t, c.Workspace, "status", "--porcelain"); status != "" {
		t.Errorf("git status = %s, want nothing", status)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(c.Workspace, name)); err != nil || string(got) != want {
			t.Errorf("%q = %q, %v, want %q", name, got, err, want)
		}
	}
}

// What a checkout has only by name is told in its log, and nothing else is.
func TestCheckoutTellsWhatIsNotFetched(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	parent := filepath.Join(filepath.Dir(o.dir), "parent")
	pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("0", 64) + "\nsize 12\n"
	for name, text := range map[string]string{
		".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a b.bin": pointer, "real.bin": "bytes", "like.txt": pointer,
	} {
		writeTo(t, parent, name, text)
	}
	gitIn(t, parent, "init", "--quiet", "--initial-branch=main")
	gitIn(t, parent, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", o.url(), "libs/x")
	gitIn(t, parent, "add", "-A")
	gitIn(t, parent, "commit", "--quiet", "-m", "x")
	for url, want := range map[string][]string{
		"file://" + parent: {"files of Git LFS that were not fetched, so that pointers are in their place: 1, the first a b.bin; the input lfs fetches them\n", "submodules that were not fetched: 1, the first at libs/x; the input submodules fetches them\n"},
		o.url():            nil,
	} {
		c, log := newCall(t, "git:checkout", run.CheckoutInputs{URL: url})
		if _, err := developer(Config{GitAllow: []string{"file:" + filepath.Dir(o.dir)}}).Run(t.Context(), c); err != nil {
			t.Fatalf("Run(%s) = %v\n%s", url, err, log)
		}
		_, told, _ := strings.Cut(log.String(), "checked out ")
		_, told, _ = strings.Cut(told, "\n")
		if told != strings.Join(want, "") {
			t.Errorf("Run(%s): log behind the commit = %q, want %q", url, told, want)
		}
	}
}

// A link to an allowed repository is followed; what counts is where it leads.
func TestCheckoutThroughALink(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(o.dir), link); err != nil {
		t.Fatal(err)
	}
	c, _ := newCall(t, "git:checkout", run.CheckoutInputs{URL: "file://" + link + "/a%20repo"})
	r, err := developer(Config{GitAllow: []string{"file://" + link + "/"}}).Run(t.Context(), c)
	if err != nil || r.Outputs["commit"] != o.v1 {
		t.Errorf("Run = %+v, %v, want commit %s", r, err, o.v1)
	}
}

func TestCheckoutOfAnotherOwnersRepository(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	c, log := newCall(t, "git:checkout", run.CheckoutInputs{URL: o.url()})
	const pretend = "GIT_TEST_ASSUME_DIFFERENT_OWNER" // git's own switch: every repository seems another's
	c.Spec.EnvAllowed = []string{pretend}
	b := developer(Config{GitAllow: []string{"file:" + o.dir}, StepEnv: map[string]string{pretend: "1"}})
	r, err := b.Run(t.Context(), c)
	if err != nil || r.Outputs["commit"] != o.v1 {
		t.Errorf("Run = %+v, %v, want commit %s\n%s", r, err, o.v1, log)
	}
}

func TestCheckoutByHTTPS(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	served := serveGit(t, filepath.Dir(o.dir))
	served.HandleFunc("/moved/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(r.URL.String(), "/moved/", "/a%20repo/", 1), http.StatusFound)
	})
	served.HandleFunc("/locked/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="locked"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	address, b := overTLS(t, served)
	checkout := func(t *testing.T, path string) (Result, error) {
		c, _ := newCall(t, "git:checkout", run.CheckoutInputs{URL: address + path})
		c.Spec.EnvAllowed = []string{"GIT_SSL_CAINFO"}
		return b.Run(t.Context(), c)
	}
	if r, err := checkout(t, "/a%20repo"); err != nil || r.Outputs["commit"] != o.v1 {
		t.Errorf("Run(https) = %+v, %v, want commit %s", r, err, o.v1)
	}
	_, err := checkout(t, "/moved/")
	wantFailure(t, "redirect", err, run.ClassTool, "error: 302")
	_, err = checkout(t, "/locked/")
	wantFailure(t, "asks for a password", err, run.ClassTool, "git fetch ended")
}

// serveGit serves the repositories in a folder.
func serveGit(t *testing.T, folder string) *http.ServeMux {
	t.Helper()
	backend, err := exec.CommandContext(t.Context(), "git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	served := http.NewServeMux()
	served.Handle("/", &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + folder, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	})
	return served
}

// overTLS serves, and makes tools that may read from there if a step is let in
// GIT_SSL_CAINFO.
func overTLS(t *testing.T, served http.Handler) (address string, b *Box) {
	t.Helper()
	server := httptest.NewTLSServer(served)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return server.URL, developer(Config{GitAllow: []string{strings.TrimPrefix(server.URL, "https://")}, StepEnv: map[string]string{"GIT_SSL_CAINFO": ca}})
}
