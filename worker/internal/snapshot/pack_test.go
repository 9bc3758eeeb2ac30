package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"nofx.dev/shared/tree"
)

// readIndex makes the rows of a pack's content from its index, as somebody would
// who has lost the database.
func readIndex(pack []byte) (rows []tree.Blob, err error) {
	tail := len(pack) - 16
	if tail < 0 || string(pack[tail+8:]) != packMagic {
		return nil, errors.New("no index at the end")
	}
	at := binary.LittleEndian.Uint64(pack[tail:])
	if at > uint64(tail-8) || binary.LittleEndian.Uint32(pack[at:]) != skippableFrame ||
		int(binary.LittleEndian.Uint32(pack[at+4:])) != len(pack)-int(at)-8 {
		return nil, errors.New("no index where the end says")
	}
	for rest := bytes.NewReader(pack[at+8 : tail]); rest.Len() > 0; {
		var b tree.Blob
		if _, err := rest.Read(b.SHA256[:]); err != nil {
			return nil, err
		}
		for _, n := range []*int64{&b.Off, &b.Len, &b.Size} {
			v, err := binary.ReadUvarint(rest)
			if err != nil {
				return nil, err
			}
			*n = int64(v)
		}
		rows = append(rows, b)
	}
	return rows, nil
}

// The directories of a checkpoint are neighbours in its pack, behind its files: whoever
// merges or compares reads them alone.
func TestPackKeepsDirectoriesTogether(t *testing.T) {
	t.Parallel()
	store, x := newStore()
	w := store.Workspace(x.tenant, t.TempDir())
	f := files{}
	for i := range 200 {
		f[fmt.Sprintf("d%d/e%d/f%d", i%10, i%20, i)] = fmt.Sprint(i)
	}
	f.write(t, w.path)
	scan, saved := checkpoint(t.Context(), t, w, x)
	nodes := map[tree.Digest]bool{}
	var walk func(d *dir)
	walk = func(d *dir) {
		nodes[d.digest] = true
		for _, sub := range d.dirs {
			if sub != nil {
				walk(sub)
			}
		}
	}
	walk(scan.root)
	first, last := saved.Objects[0].Bytes, int64(0)
	for _, b := range saved.Blobs {
		if nodes[b.SHA256] {
			first = min(first, b.Off)
		} else {
			last = max(last, b.Off+b.Len)
		}
	}
	if len(nodes) != 31 || last > first {
		t.Errorf("%d directories begin at %d, the last file ends at %d, want 31 behind all files", len(nodes), first, last)
	}
}
