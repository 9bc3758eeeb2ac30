package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"nofx.dev/shared/tree"
)

// readIndex makes the rows of a pack's content from its index, as somebody would
// who has lost the database.
func readIndex(pack []byte) (rows []tree.Blob, err error) {
	tail := len(pack) - packTail
	if tail < 0 || string(pack[tail+8:]) != packMagic {
		return nil, errors.New("no index at the end")
	}
	at := binary.LittleEndian.Uint64(pack[tail:])
	if at > uint64(tail-8) {
		return nil, errors.New("no index where the end says")
	}
	return decodeIndex(pack[at:])
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
