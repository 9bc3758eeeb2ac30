package tool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
)

// repositoryWith makes a repository with files, and with submodules by their paths.
func repositoryWith(t *testing.T, dir string, files, modules map[string]string) (commit string) {
	t.Helper()
	for name, text := range files {
		writeTo(t, dir, name, text)
	}
	gitIn(t, dir, "init", "--quiet", "--initial-branch=main")
	for path, url := range modules {
		gitIn(t, dir, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--force", url, path)
	}
	gitIn(t, dir, "add", "-A")
	gitIn(t, dir, "commit", "--quiet", "--allow-empty", "-m", "x")
	return gitIn(t, dir, "rev-parse", "HEAD")
}

func TestCheckoutOfSubmodules(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	folder := filepath.Dir(o.dir)
	inner := filepath.Join(folder, "inner")
	repositoryWith(t, inner, map[string]string{"i": "inner"}, nil)
	repositoryWith(t, filepath.Join(folder, "middle"), map[string]string{"m": "middle"}, map[string]string{"deep/inner": "../inner"})
	parent := filepath.Join(folder, "parent")
	repositoryWith(t, parent, map[string]string{"p": "parent"}, map[string]string{"libs/middle": "../middle", "a": o.url()})
	repositoryWith(t, inner, map[string]string{"i": "newer"}, nil) // what is checked out is the commit that is named

	t.Run("all", func(t *testing.T) {
		t.Parallel()
		c, log := newCall(t, "git:checkout", run.CheckoutInputs{URL: "file://" + parent, Path: "src", Submodules: true})
		if _, err := developer(Config{GitAllow: []string{"file:" + folder}}).Run(t.Context(), c); err != nil {
			t.Fatalf("Run = %v\n%s", err, log)
		}
		got := map[string]string{}
		for _, name := range []string{"src/p", "src/a/README", "src/libs/middle/m", "src/libs/middle/deep/inner/i"} {
			text, err := os.ReadFile(filepath.Join(c.Workspace, name))
			if err != nil {
				t.Error(err)
			}
			got[name] = string(text)
		}
		want := map[string]string{"src/p": "parent", "src/a/README": "v1", "src/libs/middle/m": "middle", "src/libs/middle/deep/inner/i": "inner"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
		if status := gitIn(t, filepath.Join(c.Workspace, "src"), "status", "--porcelain"); status != "" {
			t.Errorf("git status = %s, want nothing", status)
		}
	})
	t.Run("of a host that is not allowed", func(t *testing.T) {
		t.Parallel()
		c, _ := newCall(t, "git:checkout", run.CheckoutInputs{URL: "file://" + parent, Submodules: true})
		_, err := developer(Config{GitAllow: []string{"file:" + parent, "file:" + o.dir}}).Run(t.Context(), c)
		wantFailure(t, "other folder", err, run.ClassPolicy, `submodule "libs/middle": the repository `)
	})
	for name, tt := range map[string]struct {
		url    string
		class  run.FailureClass
		reason string
	}{
		"with a password": {"https://me:s3cret@example.org/x.git", run.ClassPolicy, "leave them out"},
		"a program":       {"ext::sh -c id", run.ClassPolicy, "https or file"},
		"by ssh":          {"git@example.org:x.git", run.ClassInvalid, "cannot be read"},
		"a way out":       {"../../" + filepath.Base(t.TempDir()), run.ClassPolicy, "not in a folder allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(folder, strings.ReplaceAll(name, " ", "-"))
			writeTo(t, dir, ".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = "+tt.url+"\n")
			gitIn(t, dir, "init", "--quiet", "--initial-branch=main")
			gitIn(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+o.v1+",x")
			gitIn(t, dir, "add", ".gitmodules")
			gitIn(t, dir, "commit", "--quiet", "-m", "x")
			c, _ := newCall(t, "git:checkout", run.CheckoutInputs{URL: "file://" + dir, Submodules: true})
			_, err := developer(Config{GitAllow: []string{"example.org", "file:" + folder}}).Run(t.Context(), c)
			wantFailure(t, name, err, tt.class, `submodule "x": `)
			wantFailure(t, name, err, tt.class, tt.reason)
			if strings.Contains(fmt.Sprint(err), "s3cret") {
				t.Errorf("Run = %v, which has the password", err)
			}
		})
	}
}

// lfsFiles are contents that a repository has pointers to.
var lfsFiles = map[string]string{"a b.bin": "the bytes of it\n", "d/x.bin": strings.Repeat("large", 50_000), "same.bin": "the bytes of it\n"}

func oidOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// lfsRepository makes a repository with pointers to lfsFiles.
func lfsRepository(t *testing.T, dir string) {
	t.Helper()
	files := map[string]string{".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "README": "r"}
	for name, content := range lfsFiles {
		files[name] = fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oidOf(content), len(content))
	}
	repositoryWith(t, dir, files, nil)
}

func wantLFSFiles(t *testing.T, dir string) {
	t.Helper()
	for name, want := range lfsFiles {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s = %.60q, %v, want its content", name, got, err)
		}
	}
}

func TestCheckoutOfLFSFromAFolder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "repo")
	lfsRepository(t, dir)
	checkout := func() (Call, error) {
		c, _ := newCall(t, "git:checkout", run.CheckoutInputs{URL: "file://" + dir, LFS: true})
		_, err := developer(Config{GitAllow: []string{"file:" + dir}}).Run(t.Context(), c)
		return c, err
	}
	_, err := checkout()
	wantFailure(t, "nothing there", err, run.ClassTool, "does not have")
	for _, content := range lfsFiles {
		oid := oidOf(content)
		writeTo(t, dir, ".git/lfs/objects/"+oid[:2]+"/"+oid[2:4]+"/"+oid, content)
	}
	c, err := checkout()
	if err != nil {
		t.Fatalf("Run = %v", err)
	}
	wantLFSFiles(t, c.Workspace)
	oid := oidOf(lfsFiles["d/x.bin"])
	writeTo(t, dir, ".git/lfs/objects/"+oid[:2]+"/"+oid[2:4]+"/"+oid, "others")
	c, err = checkout()
	wantFailure(t, "other bytes", err, run.ClassTool, "not what its pointer says")
	if left, _ := filepath.Glob(filepath.Join(c.Workspace, "d", ".nofx-*")); len(left) > 0 {
		t.Errorf("%v are left over", left)
	}
}

func TestCheckoutOfLFSByHTTPS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lfsRepository(t, filepath.Join(dir, "repo.git"))
	var elsewhere atomic.Value // where the files are said to be, "" for here
	var answer atomic.Int64    // the server's status
	elsewhere.Store("")
	answer.Store(http.StatusOK)
	served := serveGit(t, dir)
	served.HandleFunc("/repo.git/info/lfs/objects/batch", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Operation string
			Objects   []struct {
				OID  string
				Size int
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&ask); err != nil || ask.Operation != "download" || len(ask.Objects) != 2 || r.Header.Get("Accept") != lfsMedia {
			t.Errorf("asked for %+v, %v with %v, want two files", ask, err, r.Header)
		}
		w.Header().Set("Location", "/repo.git/info/lfs/objects/batch2")
		w.WriteHeader(int(answer.Load()))
		var objects []any
		for _, o := range ask.Objects {
			href := elsewhere.Load().(string)
			if href == "" {
				href = "https://" + r.Host + "/files/" + o.OID
			}
			objects = append(objects, map[string]any{"oid": o.OID, "size": o.Size, "actions": map[string]any{
				"download": map[string]any{"href": href, "header": map[string]string{"Authorization": "RemoteAuth x"}}}})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": objects})
	})
	served.HandleFunc("/files/{oid}", func(w http.ResponseWriter, r *http.Request) {
		for _, content := range lfsFiles {
			if oidOf(content) == r.PathValue("oid") && r.Header.Get("Authorization") == "RemoteAuth x" {
				_, _ = w.Write([]byte(content))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	})
	address, b := overTLS(t, served)
	checkout := func() (Call, error) {
		c, _ := newCall(t, "git:checkout", run.CheckoutInputs{URL: address + "/repo.git", LFS: true})
		c.Spec.EnvAllowed = []string{"GIT_SSL_CAINFO"}
		_, err := b.Run(t.Context(), c)
		return c, err
	}
	c, err := checkout()
	if err != nil {
		t.Fatalf("Run = %v", err)
	}
	wantLFSFiles(t, c.Workspace)
	for place, reason := range map[string]string{
		"https://files.example.com/x": "at https://files.example.com, which is not allowed here", strings.Replace(address, "https", "http", 1) + "/x": "at http://127.0.0.1",
		address + "/files/none": "answered with status 404",
	} {
		elsewhere.Store(place)
		_, err := checkout()
		class := run.ClassPolicy
		if strings.Contains(reason, "status") {
			class = run.ClassTool
		}
		wantFailure(t, place, err, class, reason)
	}
	elsewhere.Store("")
	answer.Store(http.StatusTemporaryRedirect)
	_, err = checkout()
	wantFailure(t, "redirect", err, run.ClassTool, "answered with status 307")
}
