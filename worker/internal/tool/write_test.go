package tool

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

func ptr[T any](v T) *T { return &v }

func TestWrite(t *testing.T) {
	t.Parallel()
	c, _ := newCall(t, "workspace:write", run.WriteInputs{Files: []run.WriteFile{
		{Path: "a/b/c.txt", Content: ptr("text")},
		{Path: "bin/run", ContentBase64: ptr("AP8="), Mode: "755"},
		{Path: "there", Content: ptr("new"), Mode: "644"},
		{Path: "link", Content: ptr("a file now")},
		{Path: "inner/x", Content: ptr("")},
	}})
	writeTo(t, c.Workspace, "there", "old and longer")
	writeTo(t, c.Workspace, "target", "untouched")
	writeTo(t, c.Workspace, "real/y", "")
	for name, target := range map[string]string{"link": "target", "inner": "real"} {
		if err := os.Symlink(target, filepath.Join(c.Workspace, name)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := New(Config{}).Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a/b/c.txt", "bin/run", "there", "link", "inner/x"}, r.Outputs["files"]); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	got := map[string]string{}
	err = filepath.WalkDir(c.Workspace, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(file)
		rel, _ := filepath.Rel(c.Workspace, file)
		got[rel] = info.Mode().String() + " " + string(text)
		return err
	})
	want := map[string]string{
		"a/b/c.txt": "-rw-r--r-- text", "bin/run": "-rwxr-xr-x \x00\xff", "there": "-rw-r--r-- new", "target": "-rw-r--r-- untouched",
		"link": "-rw-r--r-- a file now", "real/x": "-rw-r--r-- ", "real/y": "-rw-r--r-- ",
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("workspace %v (-want +got):\n%s", err, diff)
	}
}

func TestWriteStaysInside(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"through a link out":          "out/file",
		"through an absolute link":    "abs/file",
		"through a chain of links":    "chain/file",
		"over a folder":               "folder",
		"below a file":                "plain/file",
		"through a link to nowhere":   "dangling/file",
		"a path that climbs, somehow": "../file",
	} {
		outside := t.TempDir()
		c, _ := newCall(t, "workspace:write", run.WriteInputs{Files: []run.WriteFile{{Path: path, Content: ptr("x")}}})
		writeTo(t, c.Workspace, "plain", "")
		writeTo(t, c.Workspace, "folder/kept", "")
		relative, err := filepath.Rel(c.Workspace, outside)
		if err != nil {
			t.Fatal(err)
		}
		for link, target := range map[string]string{"out": relative, "abs": outside, "chain": "out", "dangling": "../no/where"} {
			if err := os.Symlink(target, filepath.Join(c.Workspace, link)); err != nil {
				t.Fatal(err)
			}
		}
		_, err = New(Config{}).Run(t.Context(), c)
		wantFailure(t, name, err, run.ClassInvalid, path)
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Errorf("writing %s left %v outside (%v)", name, entries, err)
		}
		if drafts, _ := filepath.Glob(filepath.Join(c.Workspace, ".nofx-*")); len(drafts) > 0 {
			t.Errorf("writing %s left drafts %v", name, drafts)
		}
	}
}

func TestWriteEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c, _ := newCall(t, "workspace:write", run.WriteInputs{Files: []run.WriteFile{{Path: "x", Content: ptr("x")}}})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fault.Fenced)
	if _, err := New(Config{}).Run(ctx, c); err != fault.Fenced {
		t.Errorf("Run(ended context) = %v, want %v", err, fault.Fenced)
	}
	if _, err := os.Stat(filepath.Join(c.Workspace, "x")); err == nil {
		t.Error("the file was written all the same")
	}
}

// What the files come to is known before a byte too many is fetched.
func TestWriteBeyondTheWorkspace(t *testing.T) {
	t.Parallel()
	var in run.WriteInputs
	for i := range 5 {
		in.Files = append(in.Files, run.WriteFile{Path: fmt.Sprint("f", i), ArtifactID: someArtifact})
	}
	c, _ := newCall(t, "workspace:write", in)
	opened := 0
	c.Artifact = func(context.Context, string) (io.ReadCloser, int64, error) {
		opened++
		return io.NopCloser(strings.NewReader("")), 1 << 30, nil
	}
	_, err := New(Config{}).Run(t.Context(), c)
	wantFailure(t, "five files of 1 GiB", err, run.ClassInvalid, "larger than 4294967296 bytes together")
	if _, err := os.Stat(filepath.Join(c.Workspace, "f4")); opened != 5 || err == nil {
		t.Errorf("%d artifacts were opened and f4 made (%v), want 5 and nothing", opened, err)
	}
}

// Paths that are too many for an output do not spoil the step that wrote them.
func TestWriteMany(t *testing.T) {
	t.Parallel()
	const n = 3000
	var in run.WriteInputs
	for i := range n {
		in.Files = append(in.Files, run.WriteFile{Path: fmt.Sprintf("folder/of/many/files/%04d", i), Content: ptr("")})
	}
	c, _ := newCall(t, "workspace:write", in)
	r, err := New(Config{}).Run(t.Context(), c)
	if err != nil {
		t.Fatalf("Run(write of %d files) = %v, want nil", n, err)
	}
	files, _ := r.Outputs["files"].([]string)
	if len(files) < n/2 || len(files) == n || files[0] != in.Files[0].Path || r.Outputs["total"] != n {
		t.Errorf("outputs: %d files and total %v, want the first of them and %d", len(files), r.Outputs["total"], n)
	}
}
