package httpapi

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// workspace stores a checkpoint of a small workspace: sub/{a.txt,b.txt,…}, a link
// and a file too large to be answered itself.
func workspace(g *gateway) (created api.CreatedRun, path string, large []byte) {
	g.Helper()
	large = bytes.Repeat([]byte("0123456789abcdef"), maxInline/16+1)
	entry := func(name string, mode tree.Mode, content []byte) tree.Entry {
		return tree.Entry{Name: name, Mode: mode, Digest: tree.Sum(content), Size: int64(len(content))}
	}
	contents := [][]byte{large, []byte("target"), {}}
	var sub []tree.Entry
	for i := range 5 {
		content := fmt.Appendf(nil, "content %d", i)
		contents = append(contents, content)
		sub = append(sub, entry(fmt.Sprintf("f%d.txt", i), tree.File, content))
	}
	node := tree.Encode(sub)
	root := tree.Encode([]tree.Entry{
		entry("empty", tree.File, nil), entry("large.bin", tree.Executable, large), entry("link", tree.Symlink, []byte("target")), entry("sub", tree.Directory, node),
	})
	contents = append(contents, node, root)
	created = g.create(oneStep)
	c := g.claim(created.Steps[0])
	ck := g.checkpoint(c, run.PostCheckpoint, tree.Sum(root), contents...)
	g.finish(postgres.Finish{Claim: c, Outcome: "succeed", Checkpoints: []*postgres.Checkpoint{ck}})
	return created, "/api/runs/" + created.Run.ID + "/checkpoints/" + run.CheckpointID.Format(ck.ID), large
}

func TestCheckpoints(t *testing.T) {
	g := newGateway(t)
	created, path, large := workspace(g)
	list := g.get("/api/runs/" + created.Run.ID + "/checkpoints")
	g.want(list, http.StatusOK, "")
	if items := decodeAs[api.CheckpointPage](t, list).Items; len(items) != 1 || items[0].Kind != api.CheckpointKindPost {
		t.Errorf("checkpoints = %s, want one after the step", list.body)
	}
	r := g.get(path)
	g.want(r, http.StatusOK, "")
	d := decodeAs[api.CheckpointDetail](t, r)
	if string(d.Manifest) != `{"v":1}` {
		t.Errorf("manifest = %s, want its bytes", d.Manifest)
	}
	kinds := map[api.StoredObjectKind]int{}
	for _, o := range d.Objects {
		kinds[o.Kind]++
		if content, sum := g.fetch(o.URL); sum != o.Sha256 || int64(len(content)) != o.SizeBytes {
			t.Errorf("%s at its URL = %d bytes %s, want %d bytes %s", o.Kind, len(content), sum, o.SizeBytes, o.Sha256)
		}
	}
	if diff := cmp.Diff(map[api.StoredObjectKind]int{"pack": 1, "blob": 1}, kinds); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}

	file := func(name string) reply { return g.get(path + "/file?path=" + url.QueryEscape(name)) }
	for name, want := range map[string]string{"sub/f3.txt": "content 3", "link": "target", "empty": ""} {
		r := file(name)
		g.want(r, http.StatusOK, "")
		if string(r.body) != want || r.header.Get("ETag") != `"`+tree.Sum([]byte(want)).String()+`"` || r.header.Get("Content-Disposition") != "attachment" {
			t.Errorf("file %s = %q %v, want %q as an attachment", name, r.body, r.header, want)
		}
	}
	redirected := file("large.bin")
	g.want(redirected, http.StatusSeeOther, "")
	if content, _ := g.fetch(redirected.header.Get("Location")); !bytes.Equal(content, large) {
		t.Errorf("large file = %d bytes, want %d", len(content), len(large))
	}
	for _, name := range []string{"none", "sub", "sub/none", "link/x", "../x", "/etc/passwd", "sub/../link", "sub//f1.txt", "sub/", ".", "..", `C:\x`, "%2e%2e%2fx", ".nofx/x"} {
		g.want(file(name), http.StatusNotFound, "not-found")
	}
	g.want(g.get(path+"/file"), http.StatusBadRequest, "bad-parameter")
	g.want(file("a\x00b"), http.StatusBadRequest, "bad-parameter")
}

func TestCheckpointFiles(t *testing.T) {
	g := newGateway(t)
	_, path, large := workspace(g)
	size := int64(len(large))
	r := g.get(path + "/files")
	g.want(r, http.StatusOK, "")
	var names []string
	for _, f := range decodeAs[api.FilePage](t, r).Items {
		names = append(names, string(f.Mode)+" "+f.Path)
		if f.Name == "large.bin" && (f.SizeBytes == nil || *f.SizeBytes != size) {
			t.Errorf("size of large.bin = %v, want %d", f.SizeBytes, size)
		}
		if f.Name == "sub" && f.SizeBytes != nil {
			t.Errorf("size of a folder = %d, want none", *f.SizeBytes)
		}
	}
	if diff := cmp.Diff([]string{"100644 empty", "100755 large.bin", "120000 link", "040000 sub"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	names = nil
	for cursor := ""; ; {
		p := decodeAs[api.FilePage](t, g.get(path+"/files?path=sub&limit=2"+cursor))
		for _, f := range p.Items {
			names = append(names, f.Path)
		}
		if p.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *p.NextCursor
	}
	if diff := cmp.Diff([]string{"sub/f0.txt", "sub/f1.txt", "sub/f2.txt", "sub/f3.txt", "sub/f4.txt"}, names); diff != "" {
		t.Errorf("files of sub by pages (-want +got):\n%s", diff)
	}
	for _, dir := range []string{"none", "empty", "../..", "sub/f1.txt", "link"} {
		g.want(g.get(path+"/files?path="+url.QueryEscape(dir)), http.StatusNotFound, "not-found")
	}
}

// TestLostObjects checks that a checkpoint whose bytes are gone or changed says so.
func TestLostObjects(t *testing.T) {
	g := newGateway(t)
	_, path, _ := workspace(g)
	var pack []byte
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT DISTINCT pack_sha256 FROM nofx.blob WHERE pack_sha256 IS NOT NULL").Scan(&pack); err != nil {
		t.Fatal(err)
	}
	key := blob.PackKey(g.tenant, [32]byte(pack))
	g.put(key, bytes.Repeat([]byte("x"), 4096))
	g.want(g.get(path+"/file?path=sub/f1.txt"), http.StatusConflict, "object-corrupt")
	var live int
	if err := g.pg.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.blob WHERE pack_sha256 = $1 AND state = 'live'", pack).Scan(&live); err != nil || live != 0 {
		t.Errorf("live blobs of a corrupt pack = %d, %v, want none", live, err)
	}
	if err := g.blobs.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"", "/files", "/file?path=sub/f1.txt"} {
		g.want(g.get(path+sub), http.StatusGone, "object-gone")
	}
}
