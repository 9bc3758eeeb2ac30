package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A node is the header and then, for each entry in the byte order of the names:
//
//	mode    one byte: - file, x executable, l symbolic link, d directory
//	size    unsigned varint
//	digest  32 bytes
//	name    length as unsigned varint, then its bytes
//
// There is one encoding of a directory and no other is accepted. The header is
// the version: another form gets another one.
const header = "nofx tree 1\n"

// shortest is the size of an entry whose name has one byte.
const shortest = 1 + 1 + len(Digest{}) + 1 + 1

var modes = map[byte]Mode{'-': File, 'x': Executable, 'l': Symlink, 'd': Directory}

func letter(m Mode) byte {
	switch m {
	case Executable:
		return 'x'
	case Symlink:
		return 'l'
	case Directory:
		return 'd'
	default:
		return '-'
	}
}

// Encode writes the node of entries, which must be sorted by name and valid.
func Encode(entries []Entry) []byte {
	n := len(header)
	for i := range entries {
		n += 1 + binary.MaxVarintLen64 + len(Digest{}) + 2 + len(entries[i].Name)
	}
	b := append(make([]byte, 0, n), header...)
	for i := range entries {
		e := &entries[i]
		b = append(b, letter(e.Mode))
		b = binary.AppendUvarint(b, uint64(e.Size))
		b = append(b, e.Digest[:]...)
		b = binary.AppendUvarint(b, uint64(len(e.Name)))
		b = append(b, e.Name...)
	}
	return b
}

// Decode reads what [Encode] wrote. Anything else is an error, also what would
// mean the same: an order, a name or a number written otherwise.
func Decode(b []byte) ([]Entry, error) {
	rest, ok := strings.CutPrefix(string(b), header)
	if !ok {
		return nil, errors.New("directory node: unknown form")
	}
	entries := slices.Grow([]Entry(nil), len(rest)/shortest)
	for rest != "" {
		e, after, err := decodeEntry(rest)
		if err != nil {
			return nil, fmt.Errorf("directory node, entry %d: %w", len(entries), err)
		}
		if n := len(entries); n > 0 && entries[n-1].Name >= e.Name {
			return nil, fmt.Errorf("directory node: %q after %q", e.Name, entries[n-1].Name)
		}
		entries, rest = append(entries, e), after
	}
	return entries, nil
}

var errCut = errors.New("cut off")

func decodeEntry(s string) (e Entry, rest string, err error) {
	mode, ok := modes[s[0]]
	if !ok {
		return Entry{}, "", fmt.Errorf("unknown mode %q", s[0])
	}
	size, s, err := uvarint(s[1:])
	if err != nil {
		return Entry{}, "", err
	}
	if len(s) < len(e.Digest) {
		return Entry{}, "", errCut
	}
	copy(e.Digest[:], s)
	length, s, err := uvarint(s[len(e.Digest):])
	if err != nil {
		return Entry{}, "", err
	}
	if uint64(len(s)) < length {
		return Entry{}, "", errCut
	}
	e.Name, e.Mode, e.Size = s[:length], mode, int64(size)
	if !ValidName(e.Name) {
		return Entry{}, "", fmt.Errorf("invalid name %q", e.Name)
	}
	return e, s[length:], nil
}

func uvarint(s string) (v uint64, rest string, err error) {
	const most = 9 // bytes of a number below 2^63
	for i := 0; i < len(s) && i < most; i++ {
		c := s[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c >= 0x80 {
			continue
		}
		if c == 0 && i > 0 {
			return 0, "", errors.New("number is not in its shortest form")
		}
		return v, s[i+1:], nil
	}
	return 0, "", errCut
}
