package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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

// An index with a place or length that no file has is refused, not read as a negative one.
func TestIndexWithoutSense(t *testing.T) {
	t.Parallel()
	frame := func(place, length, size uint64) []byte {
		row := make([]byte, len(tree.Digest{}))
		for _, n := range []uint64{place, length, size} {
			row = binary.AppendUvarint(row, n)
		}
		head := binary.LittleEndian.AppendUint32(nil, skippableFrame)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(row)+packTail))
		return append(append(head, row...), make([]byte, packTail)...)
	}
	if list, err := decodeIndex(frame(1, 2, math.MaxInt64)); err != nil || len(list) != 1 || list[0].Off != 1 || list[0].Len != 2 || list[0].Size != math.MaxInt64 {
		t.Errorf("decodeIndex = %v, %v, want the row", list, err)
	}
	for _, bad := range [][]byte{frame(1<<63, 2, 3), frame(1, math.MaxUint64, 3), frame(1, 2, 1<<63)} {
		if list, err := decodeIndex(bad); err == nil {
			t.Errorf("decodeIndex = %v, want an error", list)
		}
	}
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
