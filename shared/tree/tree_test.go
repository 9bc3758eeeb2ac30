package tree

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDigest(t *testing.T) {
	t.Parallel()
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if got := EmptyFile.String(); got != empty {
		t.Errorf("EmptyFile = %s, want %s", got, empty)
	}
	// Written down, because every stored workspace depends on it.
	const emptyTree = "sha256:e0b3aa836a28ded7ebaafe3363df68ac2ba198a8a899bfc069f1fdda3af5b8c3"
	if got := Empty.String(); got != emptyTree {
		t.Errorf("Empty = %s, want %s", got, emptyTree)
	}
	b, err := json.Marshal(map[string]Digest{"d": EmptyFile})
	if want := `{"d":"` + empty + `"}`; err != nil || string(b) != want {
		t.Errorf("Marshal = %s, %v, want %s", b, err, want)
	}
	var back map[string]Digest
	if err := json.Unmarshal(b, &back); err != nil || back["d"] != EmptyFile {
		t.Errorf("Unmarshal = %v, %v, want %s", back, err, empty)
	}
	for _, s := range []string{"", empty[7:], "sha1:" + empty[7:], empty + "0", empty[:70], strings.ToUpper(empty), "sha256:" + strings.Repeat("g", 64)} {
		if d, err := ParseDigest(s); err == nil {
			t.Errorf("ParseDigest(%q) = %s, want an error", s, d)
		}
	}
}

func TestDigestOfColumn(t *testing.T) {
	t.Parallel()
	for _, column := range []any{EmptyFile[:], EmptyFile.String()} {
		var d Digest
		if err := d.Scan(column); err != nil || d != EmptyFile {
			t.Errorf("Scan(%v) = %s, %v, want %s", column, d, err, EmptyFile)
		}
	}
	for _, column := range []any{nil, "", []byte{}, EmptyFile[1:], []byte(EmptyFile.String()), EmptyFile.String()[7:], 5} {
		var d Digest
		if err := d.Scan(column); err == nil {
			t.Errorf("Scan(%v) = %s, want an error", column, d)
		}
	}
}

func TestValidName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a": true, "...": true, ".git": true, " ": true, "a\nb": true, `a\b`: true, "ä": true, ".nofx": true,
		"": false, ".": false, "..": false, "a/b": false, "/": false, "a\x00": false, "\xff": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %t, want %t", name, got, want)
		}
	}
}

func entries() *rapid.Generator[[]Entry] {
	return rapid.Custom(func(t *rapid.T) []Entry {
		names := rapid.SliceOfDistinct(rapid.String().Filter(ValidName), rapid.ID).Draw(t, "names")
		slices.Sort(names)
		var es []Entry
		for _, n := range names {
			es = append(es, Entry{
				Name: n, Mode: rapid.SampledFrom([]Mode{File, Executable, Symlink, Directory}).Draw(t, "mode"),
				Digest: Sum(rapid.SliceOf(rapid.Byte()).Draw(t, "content")), Size: rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"),
			})
		}
		return es
	})
}

func TestEncodeDecode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := entries().Draw(t, "entries")
		got, err := Decode(Encode(want))
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Fatalf("Decode(Encode(e)) = %v (-want +got):\n%s", err, d)
		}
	})
}

// What Decode accepts is what Encode writes: one directory, one digest.
func TestDecodeIsCanonical(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Encode(entries().Draw(t, "entries"))
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			b[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case 1:
			b = b[:i]
		case 2:
			b = slices.Insert(b, i, rapid.Byte().Draw(t, "byte"))
		}
		if es, err := Decode(b); err == nil && string(Encode(es)) != string(b) {
			t.Fatalf("Decode(%q) = %v, which is encoded otherwise", b, es)
		}
	})
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	e := func(name string) Entry { return Entry{Name: name, Mode: File, Digest: EmptyFile} }
	long := Encode([]Entry{e("a")})
	long = slices.Replace(long, len(header)+1, len(header)+2, 0x80, 0x00) // size 0 in two bytes
	for name, b := range map[string][]byte{
		"nothing": nil, "another version": []byte("nofx tree 2\n"), "cut header": []byte(header[:5]),
		"unsorted": Encode([]Entry{e("b"), e("a")}), "twice": Encode([]Entry{e("a"), e("a")}),
		"dot dot": Encode([]Entry{e("..")}), "slash": Encode([]Entry{e("a/b")}),
		"not UTF-8": Encode([]Entry{e("\xff")}), "long number": long, "cut": Encode([]Entry{e("abc")})[:60],
		"unknown mode": []byte(header + "p"), "huge size": append([]byte(header+"-"), slices.Repeat([]byte{0xff}, 64)...),
	} {
		if es, err := Decode(b); err == nil {
			t.Errorf("Decode(%s) = %v, want an error", name, es)
		}
	}
}
