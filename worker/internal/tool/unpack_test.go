package tool

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
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

// entry is one entry of an archive: a directory when its name ends in a slash, a
// link when it has a target.
type entry struct {
	name, content, target string
	mode                  fs.FileMode
	kind                  byte // of a tar, if it is another
}

func tarGz(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.content)), Mode: int64(e.mode | 0o644), Linkname: e.target}
		switch {
		case e.kind != 0:
			h.Typeflag = e.kind
		case e.target != "":
			h.Typeflag = tar.TypeSymlink
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		content := e.content
		switch {
		case e.kind == tar.TypeFifo:
			h.SetMode(fs.ModeNamedPipe | 0o644)
		case e.target != "":
			h.SetMode(fs.ModeSymlink | 0o777)
			content = e.target
		default:
			h.SetMode(e.mode | 0o644)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var forms = map[string]func(testing.TB, ...entry) []byte{"tar.gz": tarGz, "zip": zipped}

const someArtifact = "art_00000000000000000000000000000001"

// having returns a call whose artifacts all hold content.
func having(t *testing.T, tool string, inputs any, content []byte) Call {
	t.Helper()
	c, _ := newCall(t, tool, inputs)
	c.Artifact = func(_ context.Context, id string) (io.ReadCloser, int64, error) {
		if id != someArtifact {
			return nil, 0, fault.New(fault.NotFound, "not-found", "no such artifact")
		}
		return io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
	}
	return c
}

func unpacking(t *testing.T, archive []byte) (Call, error) {
	t.Helper()
	c := having(t, run.ToolUnpack, run.UnpackInputs{ArtifactID: someArtifact}, archive)
	_, err := New(Config{}).Run(t.Context(), c)
	return c, err
}

// treeOf returns what lies below a folder: names, and modes with contents or targets.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, file)
		info, err := d.Info()
		if err != nil {
			return err
		}
		var text []byte
		switch {
		case d.Type().IsRegular():
			text, err = os.ReadFile(file)
		case d.Type() == fs.ModeSymlink:
			var target string
			target, err = os.Readlink(file)
			text = []byte(target)
		}
		all[rel] = info.Mode().String()[:4] + " " + string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	for form, make := range forms {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			large := strings.Repeat("0123456789abcdef", 1<<16)
			c, err := unpacking(t, make(t,
				entry{name: "./"}, entry{name: "src/"}, entry{name: "./src/a.go", content: "package a"},
				entry{name: "bin/run", content: "#!/bin/sh", mode: 0o755}, entry{name: "empty/"}, entry{name: "none"},
				entry{name: "large", content: large}, entry{name: "grüße ♥", content: "x"},
				entry{name: "src/up", target: "../bin/run"}, entry{name: "here", target: "."}))
			if err != nil {
				t.Fatalf("Run(unpack) = %v", err)
			}
			want := map[string]string{
				"src": "drwx ", "src/a.go": "-rw- package a", "bin": "drwx ", "bin/run": "-rwx #!/bin/sh", "empty": "drwx ", "none": "-rw- ",
				"large": "-rw- " + large, "grüße ♥": "-rw- x", "src/up": "Lrwx ../bin/run", "here": "Lrwx .",
			}
			if diff := cmp.Diff(want, treeOf(t, c.Workspace)); diff != "" {
				t.Errorf("workspace (-want +got):\n%s", diff)
			}
		})
	}
}

// What only one form of archive has.
func TestUnpackKinds(t *testing.T) {
	t.Parallel()
	dos := func(entries ...entry) []byte { // as tools of Windows make it
		archive := zipped(t, entries...)
		for at := 0; ; at += 4 {
			i := bytes.Index(archive[at:], zipHeader)
			if i < 0 {
				return archive
			}
			at += i
			archive[at+5] = 0 // the system that the entry was made on
		}
	}
	sparse := sparseTar("d/sparse", "data", 4096, 8192)
	long := strings.Repeat("n", 200)
	// A zip whose local header leaves the sizes to an extra field, as of data that was
	// written as it came.
	zip64, err := base64.StdEncoding.DecodeString("UEsDBC0AAAAAAAAAIQCGphA2//////////8BABQAYQEAEAAFAAAAAAAAAAUAAAAAAAAAaGVsbG9QSwECLQMtAAAAAAAAACEA" +
		"hqYQNgUAAAAFAAAAAQAAAAAAAAAAAAAAgAEAAAAAYVBLBQYAAAAAAQABAC8AAAA4AAAAAAA=")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		archive []byte
		want    map[string]string
	}{
		"hard links": {tarGz(t, entry{name: "a", content: "one", mode: 0o755}, entry{name: "d/b", target: "a", kind: tar.TypeLink}, entry{name: "./c", target: "./d/b", kind: tar.TypeLink}),
			map[string]string{"a": "-rwx one", "d": "drwx ", "d/b": "-rwx one", "c": "-rwx one"}},
		"hard link to a link": {tarGz(t, entry{name: "a", target: "x"}, entry{name: "b", target: "a", kind: tar.TypeLink}),
			map[string]string{"a": "Lrwx x", "b": "Lrwx x"}},
		"sparse":         {sparse, map[string]string{"d": "drwx ", "d/sparse": "-rw- " + strings.Repeat("\x00", 4096) + "data" + strings.Repeat("\x00", 8192-4096-4)}},
		"long names":     {tarGz(t, entry{name: long + "/" + long, content: "l"}), map[string]string{long: "drwx ", long + "/" + long: "-rw- l"}},
		"zip64":          {zip64, map[string]string{"a": "-rw- hello"}},
		"contiguous":     {tarGz(t, entry{name: "a", content: "x", kind: tar.TypeCont}), map[string]string{"a": "-rw- x"}},
		"volume's label": {tarGz(t, entry{name: "backup 1", kind: 'V'}, entry{name: "a", content: "x"}), map[string]string{"a": "-rw- x"}},
		"backslashes":    {zipped(t, entry{name: `d\`}, entry{name: `d\e\f.txt`, content: "x"}, entry{name: "g", content: "y"}), map[string]string{"d": "drwx ", "d/e": "drwx ", "d/e/f.txt": "-rw- x", "g": "-rw- y"}},
		"of Windows":     {dos(entry{name: `d/e\f.txt`, content: "x"}), map[string]string{"d": "drwx ", "d/e": "drwx ", "d/e/f.txt": "-rw- x"}},
	} {
		c, err := unpacking(t, tt.archive)
		if err != nil {
			t.Errorf("%s: Run(unpack) = %v", name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, treeOf(t, c.Workspace)); diff != "" {
			t.Errorf("%s: workspace (-want +got):\n%s", name, diff)
		}
	}
	// Copies and holes count like any other bytes.
	for name, archive := range map[string][]byte{
		"hard links": tarGz(t, entry{name: "a", content: strings.Repeat("x", 400<<10)}, entry{name: "b", target: "a", kind: tar.TypeLink}),
		"sparse":     sparseTar("s", "data", 600<<10, 700<<10),
	} {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := &unpacker{ctx: t.Context(), root: root, packed: int64(len(archive)),
			limits: archiveLimits{files: 10, bytes: 1 << 20, file: 1 << 20, ratio: 100, free: 512 << 10, depth: 8}}
		if err := u.unpack(bytes.NewReader(archive), int64(len(archive))); err == nil || !strings.Contains(err.Error(), "larger than 524288 bytes together") {
			t.Errorf("unpack of too many bytes by %s = %v, want a refusal", name, err)
		}
	}
}

// sparseTar returns a tar.gz with a file of size bytes in the old form of GNU tar -S: data
// at an offset, and nothing else.
func sparseTar(name, data string, at, size int) []byte {
	h := make([]byte, 512)
	for offset, text := range map[int]string{
		0: name, 100: "0000644", 108: "0000000", 116: "0000000", 124: fmt.Sprintf("%011o", len(data)), 136: "00000000000", 156: "S", 257: "ustar  ",
		386: fmt.Sprintf("%011o", at), 398: fmt.Sprintf("%011o", len(data)), 483: fmt.Sprintf("%011o", size), 148: "        ",
	} {
		copy(h[offset:], text)
	}
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(append(append(h, data...), make([]byte, 512-len(data)+1024)...))
	_ = z.Close()
	return b.Bytes()
}

func TestS16_UnpackRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("d/", 65) + "f"
	for name, tt := range map[string]struct {
		entries []entry
		reason  string
	}{
		"climbing":             {[]entry{{name: "../escaped", content: "x"}}, "element"},
		"climbing inside":      {[]entry{{name: "a/../../escaped", content: "x"}}, "element"},
		"absolute":             {[]entry{{name: "/tmp/escaped", content: "x"}}, "is absolute"},
		"backslashes":          {[]entry{{name: `a/..\escaped`, content: "x"}}, "backslash"},
		"broken UTF-8":         {[]entry{{name: "a\xff", content: "x"}}, "UTF-8"},
		"deep":                 {[]entry{{name: deep, content: "x"}}, "deeper than 64"},
		"a long name":          {[]entry{{name: strings.Repeat("n", 1025), content: "x"}}, "longer than 1024"},
		"twice":                {[]entry{{name: "a", content: "x"}, {name: "a", content: "y"}}, `"a" is there twice`},
		"below a file":         {[]entry{{name: "a", content: "x"}, {name: "a/b", content: "y"}}, `"a" is there twice`},
		"link out":             {[]entry{{name: "l", target: "../out"}}, "leads out"},
		"link out, deeper":     {[]entry{{name: "d/l", target: "x/../../../out"}}, "leads out"},
		"link out by a link":   {[]entry{{name: "x", target: "."}, {name: "l", target: "x/../out"}}, ".. behind a name"},
		"absolute link":        {[]entry{{name: "l", target: "/etc/passwd"}}, "leads out"},
		"through a link":       {[]entry{{name: "l", target: "."}, {name: "l/f", content: "x"}}, `"l" is there twice`},
		"link behind a link":   {[]entry{{name: "l", target: "d"}, {name: "l/m", target: "x"}}, "behind the link"},
		"a pipe":               {[]entry{{name: "p", kind: tar.TypeFifo}}, "is no file"},
		"a file for a root":    {[]entry{{name: "./", content: ""}, {name: ".", content: "x"}}, "no name"},
		"a folder in the way":  {[]entry{{name: "a/b", content: "x"}, {name: "a", content: "y"}}, "there twice"},
		"a link in the way of": {[]entry{{name: "a/b", content: "x"}, {name: "a", target: "c"}}, "there twice"},
	} {
		for form, make := range forms {
			c, err := unpacking(t, make(t, tt.entries...))
			wantFailure(t, name+" in a "+form, err, run.ClassInvalid, tt.reason)
			for _, path := range []string{filepath.Join(filepath.Dir(c.Workspace), "escaped"), "/tmp/escaped"} {
				if _, err := os.Lstat(path); err == nil {
					t.Errorf("%s in a %s made %s", name, form, path)
				}
			}
		}
	}
	_, err := unpacking(t, zipped(t, entry{name: "a\x00b", content: "x"}))
	wantFailure(t, "NUL in a zip", err, run.ClassInvalid, "NUL")
	_, err = unpacking(t, zipped(t, entry{name: `..\escaped`, content: "x"}))
	wantFailure(t, "a drive", err, run.ClassInvalid, "element")
	_, err = unpacking(t, tarGz(t, entry{name: `..\escaped`, content: "x"}))
	wantFailure(t, "a backslash in a tar.gz", err, run.ClassInvalid, "backslash")
	for name, tt := range map[string]struct {
		entries []entry
		reason  string
	}{
		"out":                                 {[]entry{{name: "a", content: "x"}, {name: "b", target: "../a", kind: tar.TypeLink}}, "element"},
		"absolute":                            {[]entry{{name: "b", target: "/etc/passwd", kind: tar.TypeLink}}, "is absolute"},
		"forward":                             {[]entry{{name: "b", target: "a", kind: tar.TypeLink}, {name: "a", content: "x"}}, `"b" is a hard link to "a", which is no file before it`},
		"to a folder":                         {[]entry{{name: "a/"}, {name: "b", target: "a", kind: tar.TypeLink}}, "no file before it"},
		"to itself":                           {[]entry{{name: "b", target: "b", kind: tar.TypeLink}}, "no file before it"},
		"twice":                               {[]entry{{name: "a", content: "x"}, {name: "a", target: "a", kind: tar.TypeLink}}, "there twice"},
		"to a link that leads out from there": {[]entry{{name: "d/l", target: "../x"}, {name: "l", target: "d/l", kind: tar.TypeLink}}, "leads out"},
		"by a link":                           {[]entry{{name: "d", target: ".."}, {name: "b", target: "d/secret", kind: tar.TypeLink}}, "leads out"},
	} {
		_, err := unpacking(t, tarGz(t, tt.entries...))
		wantFailure(t, "hard link "+name, err, run.ClassInvalid, tt.reason)
	}
	for kind, name := range map[byte]string{tar.TypeChar: "device", tar.TypeBlock: "disk"} {
		_, err := unpacking(t, tarGz(t, entry{name: "x", target: "/etc/passwd", kind: kind}))
		wantFailure(t, name, err, run.ClassInvalid, "is no file")
	}
	good := tarGz(t, entry{name: "a", content: strings.Repeat("text", 1000)})
	for name, archive := range map[string][]byte{
		"text": []byte("not an archive"), "nothing": {}, "a cut tar.gz": good[:len(good)-20],
		"a cut zip": zipped(t, entry{name: "a", content: "x"})[:40], "gzip of something else": tarGz(t)[:12],
	} {
		_, err := unpacking(t, archive)
		wantFailure(t, name, err, run.ClassInvalid, "unpack the archive")
	}
}

// Bombs are stopped by what comes out of them, whatever they say of themselves.
func TestS16_UnpackLimits(t *testing.T) {
	t.Parallel()
	small := archiveLimits{files: 10, list: 8 << 10, bytes: 1 << 20, file: 600 << 10, ratio: 100, free: 64 << 10, depth: 8}
	many := func(n, size int) (list []entry) {
		for i := range n {
			list = append(list, entry{name: fmt.Sprint("f", i), content: strings.Repeat("\x00", size)})
		}
		return list
	}
	noise := func(seed, size int) string {
		b := make([]byte, size)
		for i := range b {
			seed = seed*1103515245 + 12345
			b[i] = byte(seed >> 16)
		}
		return string(b)
	}
	for name, tt := range map[string]struct {
		entries []entry
		reason  string
	}{
		"entries":    {many(11, 0), "more than 10 entries"},
		"implied":    {[]entry{{name: "a/b/c/d/e/f"}, {name: "g/h/i/j/k/l"}, {name: "m/n"}}, "more than 10 directories"},
		"one file":   {many(1, 700<<10), "larger than 614400 bytes"},
		"all files":  {[]entry{{name: "a", content: noise(1, 500<<10)}, {name: "b", content: noise(2, 500<<10)}, {name: "c", content: noise(3, 500<<10)}}, "larger than 1048576 bytes together"},
		"the swell":  {many(2, 500<<10), "bytes"},
		"big enough": {many(10, 6<<10), ""},
	} {
		for form, make := range forms {
			archive := make(t, tt.entries...)
			root, err := os.OpenRoot(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			u := &unpacker{ctx: t.Context(), root: root, limits: small, packed: int64(len(archive))}
			err = u.unpack(bytes.NewReader(archive), int64(len(archive)))
			if (err == nil) != (tt.reason == "") || err != nil && !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("%s of a %s with %d bytes = %v, want %q", name, form, len(archive), err, tt.reason)
			}
			root.Close()
		}
	}
}

// The list of a zip is held in memory, so it is bounded as it is read, and not by
// the number of entries that the file names.
func TestUnpackZipList(t *testing.T) {
	t.Parallel()
	const most = 50
	limits := archiveLimits{files: most, list: 16 << 10, bytes: 1 << 20, file: 1 << 20, ratio: 100, free: 1 << 20, depth: 8}
	for name, tt := range map[string]struct {
		entries, name int
		reason        string
	}{
		"as many as may be": {most, 100, ""},
		"too many":          {1000, 2, "more than 50 entries"},
		"long names":        {most, 1000, "longer than 16384 bytes"},
	} {
		var list []entry
		for i := range tt.entries {
			list = append(list, entry{name: fmt.Sprintf("%0*d", tt.name, i)})
		}
		archive := zipped(t, list...)
		// What the end of the file says of the list: one entry.
		end := bytes.LastIndex(archive, []byte("PK\x05\x06"))
		if tt.reason != "" {
			copy(archive[end+8:], []byte{1, 0, 1, 0})
		}
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		r := &counting{r: bytes.NewReader(archive)}
		u := &unpacker{ctx: t.Context(), root: root, limits: limits, packed: int64(len(archive))}
		err = u.unpack(r, int64(len(archive)))
		if (err == nil) != (tt.reason == "") || err != nil && !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: unpack = %v, want %q", name, err, tt.reason)
		}
		if got, most := r.n, int64(len(archive))/2; tt.reason != "" && got > most {
			t.Errorf("%s: %d bytes of %d were read, want at most %d", name, got, len(archive), most)
		}
	}
}

// Room is made for as many entries as a zip announces before one of them is read.
func TestUnpackZipAnnounces(t *testing.T) {
	t.Parallel()
	const size, entries = 64 << 20, 2 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := make([]byte, 56+20+22)
	le := binary.LittleEndian
	copy(end, "PK\x06\x06")
	le.PutUint64(end[4:], 44)
	le.PutUint64(end[24:], entries)
	le.PutUint64(end[32:], entries)
	le.PutUint64(end[48:], size-uint64(len(end)))
	locator := end[56:]
	copy(locator, "PK\x06\x07")
	le.PutUint64(locator[8:], size-uint64(len(end)))
	le.PutUint32(locator[16:], 1)
	last := end[76:]
	copy(last, "PK\x05\x06")
	for _, at := range []int{8, 10} {
		le.PutUint16(last[at:], 0xffff)
	}
	for _, at := range []int{12, 16} {
		le.PutUint32(last[at:], 0xffffffff)
	}
	for at, text := range map[int64][]byte{0: []byte("PK\x03\x04"), size - int64(len(end)): end} {
		if _, err := f.WriteAt(text, at); err != nil {
			t.Fatal(err)
		}
	}
	u := &unpacker{ctx: t.Context(), limits: designLimits, packed: size}
	if err := u.unpack(f, size); err == nil || !strings.Contains(err.Error(), "more than 100000 entries") {
		t.Errorf("unpack(a zip that announces %d entries) = %v, want a refusal", entries, err)
	}
}

// What is no file of an archive is read under the same context.
func TestUnpackEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "of nothing"}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fault.Fenced)
	u := &unpacker{ctx: ctx, limits: designLimits, packed: int64(b.Len())}
	if err := u.unpack(bytes.NewReader(b.Bytes()), int64(b.Len())); err != fault.Fenced {
		t.Errorf("unpack under a context that has ended = %v, want %v", err, fault.Fenced)
	}
}

type counting struct {
	r io.ReaderAt
	n int64
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.n += int64(n)
	return n, err
}

// What the storage says of an archive is not the plan's fault.
func TestUnpackStorage(t *testing.T) {
	t.Parallel()
	c := having(t, run.ToolUnpack, run.UnpackInputs{ArtifactID: someArtifact}, nil)
	want := fault.New(fault.Unavailable, "storage-unavailable", "it is away")
	c.Artifact = func(context.Context, string) (io.ReadCloser, int64, error) { return nil, 0, want }
	if _, err := New(Config{}).Run(t.Context(), c); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Run(unpack of storage that is away) = %v, want unavailable", err)
	}
	c = having(t, run.ToolUnpack, run.UnpackInputs{ArtifactID: someArtifact}, nil)
	corrupt := fault.New(fault.Conflict, "object-corrupt", "other bytes")
	c.Artifact = func(context.Context, string) (io.ReadCloser, int64, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(tarGz(t, entry{name: "a"})), failing{corrupt})), 100, nil
	}
	if _, err := New(Config{}).Run(t.Context(), c); fault.KindOf(err) != fault.Conflict {
		t.Errorf("Run(unpack of other bytes) = %v, want what the storage said", err)
	}
	if got := treeOf(t, c.Workspace); len(got) != 0 {
		t.Errorf("an archive that is not verified left %v", got)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWriteArtifact(t *testing.T) {
	t.Parallel()
	inputs := run.WriteInputs{Files: []run.WriteFile{{Path: "d/tool", ArtifactID: someArtifact, Mode: "755"}}}
	c := having(t, run.ToolWorkspaceWrite, inputs, []byte("\x00bytes"))
	if _, err := New(Config{}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"d": "drwx ", "d/tool": "-rwx \x00bytes"}, treeOf(t, c.Workspace)); diff != "" {
		t.Errorf("workspace (-want +got):\n%s", diff)
	}
	c = having(t, run.ToolWorkspaceWrite, inputs, nil)
	c.Artifact = func(context.Context, string) (io.ReadCloser, int64, error) {
		return io.NopCloser(io.MultiReader(strings.NewReader("half"), failing{fault.New(fault.Conflict, "object-corrupt", "other bytes")})), 8, nil
	}
	if _, err := New(Config{}).Run(t.Context(), c); fault.KindOf(err) != fault.Conflict {
		t.Errorf("Run(write of other bytes) = %v, want what the storage said", err)
	}
	if diff := cmp.Diff(map[string]string{"d": "drwx "}, treeOf(t, c.Workspace)); diff != "" {
		t.Errorf("after a broken artifact (-want +got):\n%s", diff)
	}
}

// FuzzUnpack feeds the reader anything: it may refuse, but never leaves the
// workspace.
func FuzzUnpack(f *testing.F) {
	for _, make := range forms {
		f.Add(make(f, entry{name: "a/b", content: "text"}, entry{name: "l", target: "a"}))
		f.Add(make(f, entry{name: "../x", content: "text"}, entry{name: "l", target: "../.."}))
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "workspace")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := &unpacker{ctx: t.Context(), root: root, packed: int64(len(archive)),
			limits: archiveLimits{files: 50, list: 1 << 20, bytes: 1 << 20, file: 1 << 20, ratio: 100, free: 1 << 20, depth: 8}}
		_ = u.unpack(bytes.NewReader(archive), int64(len(archive)))
		if entries, err := os.ReadDir(outer); err != nil || len(entries) != 1 {
			t.Errorf("beside the workspace there is %v, %v", entries, err)
		}
		if u.bytes > u.most() {
			t.Errorf("%d bytes were unpacked, want at most %d", u.bytes, u.most())
		}
	})
}
