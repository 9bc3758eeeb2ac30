package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"

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
