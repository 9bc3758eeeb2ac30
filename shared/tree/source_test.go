package tree

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
)

func content(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// collect reads digests through Each.
func collect(ctx context.Context, s *stored, tenant uuid.UUID, digests []Digest) (map[Digest]string, error) {
	got := map[Digest]string{}
	var mu sync.Mutex
	err := s.src.Each(ctx, tenant, digests, func(d Digest, r io.Reader) error {
		b, err := io.ReadAll(r)
		mu.Lock()
		defer mu.Unlock()
		if _, twice := got[d]; twice {
			return fmt.Errorf("%s twice", d)
		}
		got[d] = string(b)
		return err
	})
	return got, err
}

func TestEach(t *testing.T) {
	t.Parallel()
	s := newStored(t)
	want := map[Digest]string{Empty: header, EmptyFile: ""}
	add := func(b []byte) []byte { want[Sum(b)] = string(b); return b }

	s.own(add(content(Small)))
	s.own(add(content(3 << 20)))
	s.own(add([]byte("small, and still on its own")))
	s.pack(0, add([]byte("a")), add(content(Small-1)), add(bytes.Repeat([]byte("zip"), 50_000)))
	var many [][]byte
	for range 40 { // more than one read's worth
		many = append(many, add(content(200<<10)))
	}
	s.pack(0, many...)
	s.pack(2*spanGap, add([]byte("far")), add([]byte("apart"))) // read one by one

	var digests []Digest
	for d := range want {
		digests = append(digests, d, d)
	}
	got, err := collect(t.Context(), s, s.tenant, digests)
	if err != nil {
		t.Fatalf("Each: %v", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Each read other content:\n%.2000s", d)
	}
	for d, w := range want {
		r, err := s.src.Open(t.Context(), s.tenant, d)
		if err != nil {
			t.Fatalf("Open(%s): %v", d, err)
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || string(b) != w {
			t.Errorf("Open(%s) = %d bytes, %v, want %d", d, len(b), err, len(w))
		}
	}
	if _, err := collect(t.Context(), s, uuid.New(), digests); !errors.Is(err, fault.Gone) {
		t.Errorf("Each(another tenant) = %v, want Gone", err)
	}
}

func TestEachStopsAtFirstError(t *testing.T) {
	t.Parallel()
	s := newStored(t)
	s.pack(0, []byte("x"), []byte("y"))
	stop := errors.New("enough")
	err := s.src.Each(t.Context(), s.tenant, []Digest{Sum([]byte("x")), Sum([]byte("y"))}, func(Digest, io.Reader) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("Each = %v, want fn's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := collect(ctx, s, s.tenant, []Digest{Sum([]byte("x"))}); !errors.Is(err, context.Canceled) {
		t.Errorf("Each(cancelled) = %v, want context.Canceled", err)
	}
}

// Whatever happens to the stored bytes is noticed and told apart.
func TestDamage(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 0x10; return b }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	longer := func(b []byte) []byte { return append(bytes.Clone(b), 0) }
	for name, damage := range map[string]struct {
		do   func([]byte) []byte // nil: deleted
		kind fault.Kind
		code string
	}{
		"flipped":   {flip, fault.Conflict, "object-corrupt"},
		"truncated": {cut, fault.Conflict, "object-corrupt"},
		"emptied":   {func([]byte) []byte { return nil }, fault.Conflict, "object-corrupt"},
		"deleted":   {nil, fault.Gone, "object-gone"},
		"longer":    {longer, fault.Conflict, "object-corrupt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStored(t)
			big, small := content(Small), content(1000)
			own, packed := s.own(big), Sum(small)
			pack := s.pack(0, small)
			keys := map[Digest]string{own: blob.BlobKey(s.tenant, own), packed: blob.PackKey(s.tenant, pack)}
			for d, key := range keys {
				r, err := store.Open(t.Context(), key, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil {
					t.Fatal(err)
				}
				if damage.do == nil {
					if err := store.Delete(t.Context(), key); err != nil {
						t.Fatal(err)
					}
				} else {
					s.put(key, damage.do(b))
				}
				if name == "longer" && d == packed {
					continue // what follows a frame is not read
				}
				_, err = collect(t.Context(), s, s.tenant, []Digest{d})
				if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != damage.kind || e.Code != damage.code {
					t.Errorf("Each(%s) = %v, want %s %s", key, err, damage.kind, damage.code)
				}
				r, err = s.src.Open(t.Context(), s.tenant, d)
				if err == nil {
					_, err = io.ReadAll(r)
					r.Close()
				}
				if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != damage.code {
					t.Errorf("Open(%s) = %v, want %s", key, err, damage.code)
				}
				if want := []string{key, key}; !slices.Equal(s.condemned, want) {
					t.Errorf("condemned = %q, want %q", s.condemned, want)
				}
				s.condemned = nil
			}
		})
	}
}

func TestWrongLocations(t *testing.T) {
	t.Parallel()
	s := newStored(t)
	x, y := []byte("the one"), []byte("the other")
	pack := s.pack(0, x, y)
	good, other := s.at[Sum(x)], s.at[Sum(y)]
	for name, loc := range map[string]Location{
		"another's frame": other,
		"both frames":     {Pack: &pack, Off: 0, Len: good.Len + other.Len, Size: good.Size},
		"half a frame":    {Pack: &pack, Off: 0, Len: good.Len / 2, Size: good.Size},
		"another size":    {Pack: &pack, Off: 0, Len: good.Len, Size: good.Size + 1},
		"beyond the end":  {Pack: &pack, Off: 1 << 30, Len: good.Len, Size: good.Size},
		"negative":        {Pack: &pack, Off: -1, Len: good.Len, Size: good.Size},
		"endless":         {Pack: &pack, Off: 0, Len: 1 << 62, Size: good.Size},
		"not small":       {Pack: &pack, Off: 0, Len: good.Len, Size: Small},
		"far away":        {Pack: &pack, Off: 1<<63 - 1, Len: good.Len, Size: good.Size},
	} {
		s.at[Sum(x)] = loc
		if _, err := collect(t.Context(), s, s.tenant, []Digest{Sum(x), Sum(y)}); !errors.Is(err, fault.Conflict) {
			t.Errorf("Each(%s) = %v, want Conflict", name, err)
		}
	}
}

// A frame that claims or makes more than small content is refused unread.
func TestFrameBomb(t *testing.T) {
	t.Parallel()
	s := newStored(t)
	bomb := make([]byte, 64<<20)
	s.pack(0, bomb)
	loc := s.at[Sum(bomb)]
	loc.Size = 1000
	s.at[Sum(bomb)] = loc
	if _, err := collect(t.Context(), s, s.tenant, []Digest{Sum(bomb)}); !errors.Is(err, fault.Conflict) {
		t.Errorf("Each(bomb) = %v, want Conflict", err)
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	s := newStored(t)
	root := s.tree(map[string]string{
		"README.md": "read me", "a.txt": "dot", "a/b/c.txt": "deep", "a/z": "last", "empty/": "", "src/main.go": "package main", "src/x/y/z": "zzz",
	})
	all := []string{"README.md", "a", "a/b", "a/b/c.txt", "a/z", "a.txt", "empty", "src", "src/main.go", "src/x", "src/x/y", "src/x/y/z"}

	walk := func(dir, after string, end int) (paths []string, err error) {
		err = s.src.Tree(s.tenant, root).Walk(t.Context(), dir, after, func(p string, e Entry) error {
			if paths = append(paths, p); len(paths) == end {
				return fs.SkipAll
			}
			return nil
		})
		return paths, err
	}
	if got, err := walk("", "", 0); err != nil || !cmp.Equal(got, all) {
		t.Errorf("Walk = %q, %v, want %q", got, err, all)
	}
	for i, after := range all { // a page from any point joins the one before
		got, err := walk("", after, 3)
		if want := all[i+1 : min(i+4, len(all))]; err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("Walk(after %q) = %q, %v, want %q", after, got, err, want)
		}
	}
	for _, c := range []struct{ dir, after, want string }{
		{"src", "", "src/main.go src/x src/x/y src/x/y/z"}, {"src", "src/x", "src/x/y src/x/y/z"},
		{"src/x", "src/x/y/z", ""}, {"empty", "", ""}, {"a", "a/a", "a/b a/b/c.txt a/z"}, {"", "a/b/zz", "a/z a.txt empty src src/main.go src/x src/x/y src/x/y/z"},
	} {
		got, err := walk(c.dir, c.after, 0)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("Walk(%q, %q) = %q, %v, want %s", c.dir, c.after, got, err, c.want)
		}
	}

	tr := s.src.Tree(s.tenant, root)
	for p, want := range map[string]string{"README.md": "read me", "a/b/c.txt": "deep", "src/x/y/z": "zzz"} {
		r, e, err := tr.Open(t.Context(), p)
		if err != nil {
			t.Errorf("Open(%q): %v", p, err)
			continue
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != want || e.Size != int64(len(want)) || e.Mode != File {
			t.Errorf("Open(%q) = %q, %+v, %v, want %q", p, b, e, err, want)
		}
		r.Close()
	}
	for _, p := range []string{"nope", "a/nope", "README.md/x", "/README.md", "README.md/", "a//z", "../x", "a/../a.txt", ".", "a/.", "\x00"} {
		if e, err := tr.Lookup(t.Context(), p); !errors.Is(err, fault.NotFound) {
			t.Errorf("Lookup(%q) = %+v, %v, want NotFound", p, e, err)
		}
	}
	if _, _, err := tr.Open(t.Context(), "a"); !errors.Is(err, fault.NotFound) {
		t.Errorf("Open(directory) = %v, want NotFound", err)
	}
	list, err := tr.List(t.Context(), "a")
	if err != nil || len(list) != 2 || list[0].Name != "b" || list[0].Mode != Directory || list[1].Name != "z" {
		t.Errorf("List(a) = %+v, %v, want b, z", list, err)
	}
	if list, err = tr.List(t.Context(), "a/z"); err != nil || len(list) != 1 || list[0].Name != "z" {
		t.Errorf("List(a/z) = %+v, %v, want the file", list, err)
	}
	if _, err := walk("nope", "", 0); !errors.Is(err, fault.NotFound) {
		t.Errorf("Walk(nope) = %v, want NotFound", err)
	}
}

// What is stored as a directory and is none is corrupt, not a panic.
func TestBrokenNode(t *testing.T) {
	t.Parallel()
	s := newStored(t)
	s.pack(0, []byte("no node"))
	if _, err := s.src.Tree(s.tenant, Sum([]byte("no node"))).List(t.Context(), ""); !errors.Is(err, fault.Conflict) {
		t.Errorf("List(broken node) = %v, want Conflict", err)
	}
}
