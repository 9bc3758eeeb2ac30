// Package tree is the workspace as it is kept in a checkpoint: what a directory
// looks like in bytes, and how a stored one is read.
//
// A workspace is a tree of content addressed by SHA-256. A directory is a node:
// its entries, sorted, in the canonical form of [Encode], so that equal
// directories have equal digests and a whole subtree is compared by one
// comparison. A file is its bytes, a symbolic link the text of its target.
// Content below [Small] bytes is kept with its like in packs, the rest in
// objects of their own; the database knows where ([Locator]).
//
// The worker writes trees and restores them (its package snapshot); both
// processes read them, and that half is here: [Source] fetches content and
// verifies each byte of it against its digest, [Tree] finds paths.
package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Digest is the SHA-256 of content.
type Digest [sha256.Size]byte

// Sum returns the digest of b.
func Sum(b []byte) Digest { return sha256.Sum256(b) }

const digestPrefix = "sha256:"

// String returns the form of rows and documents: sha256:<64 hex digits>.
func (d Digest) String() string { return digestPrefix + hex.EncodeToString(d[:]) }

// MarshalText returns what [Digest.String] returns, as bytes.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText sets d as [ParseDigest] reads it.
func (d *Digest) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDigest(string(b))
	return err
}

// Scan reads a column of a row: 32 bytes, or text in the form of [Digest.String].
func (d *Digest) Scan(column any) error {
	switch c := column.(type) {
	case string:
		return d.UnmarshalText([]byte(c))
	case []byte:
		if len(c) != len(d) {
			return fmt.Errorf("%d bytes are not a digest", len(c))
		}
		copy(d[:], c)
		return nil
	default:
		return fmt.Errorf("a column of type %T is not a digest", column)
	}
}

// ParseDigest reads what [Digest.String] writes, and nothing else.
func ParseDigest(s string) (d Digest, err error) {
	digits, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(digits) != 2*len(d) || strings.ToLower(digits) != digits {
		return Digest{}, fmt.Errorf("%q is not a digest", s)
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return Digest{}, fmt.Errorf("%q is not a digest", s)
	}
	return d, nil
}

// Mode is what an entry is. The values are git's.
type Mode uint32

// The modes. Nothing else is kept of a file's permissions.
const (
	File       Mode = 0o100644
	Executable Mode = 0o100755
	Symlink    Mode = 0o120000
	Directory  Mode = 0o040000
)

// String returns the six octal digits of documents.
func (m Mode) String() string { return fmt.Sprintf("%06o", uint32(m)) }

// Entry is one name in a directory.
type Entry struct {
	Name   string
	Mode   Mode
	Digest Digest
	Size   int64 // bytes of the content: of a directory, of its node
}

// Content that is known by its digest alone and needs no object: the directory
// without entries and the file without bytes.
var (
	Empty     = Sum([]byte(header))
	EmptyFile = Sum(nil)
)

func wellKnown(d Digest) ([]byte, bool) {
	switch d {
	case Empty:
		return []byte(header), true
	case EmptyFile:
		return nil, true
	}
	return nil, false
}

// NeedsObject reports whether content of digest d has to be stored to be read.
func NeedsObject(d Digest) bool {
	_, known := wellKnown(d)
	return !known
}

// ValidName reports whether an entry may have the name: UTF-8 without slash and
// NUL, neither "." nor "..".
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." &&
		utf8.ValidString(name) && !strings.ContainsAny(name, "/\x00")
}
