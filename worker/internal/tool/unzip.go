package tool

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// zip unpacks a zip.
func (u *unpacker) zip(r io.ReaderAt, size int64) error {
	list := &zipList{r: r, entries: u.limits.files, bytes: u.limits.list}
	archive, err := zip.NewReader(list, size)
	if list.err != nil {
		return list.err
	}
	if err != nil {
		return err
	}
	list.read = true
	for _, f := range archive.File {
		if err := u.zipEntry(f); err != nil {
			return err
		}
	}
	return nil
}

// zipName returns the name of an entry with slashes. Old tools of Windows separate by
// backslashes, against the format (APPNOTE.TXT 4.4.17.1); a name with both is theirs
// only if it says that it was made there.
func zipName(f *zip.File) string {
	const fat, ntfs, vfat = 0, 10, 14
	if made := f.CreatorVersion >> 8; made == fat || made == ntfs || made == vfat || !strings.Contains(f.Name, "/") {
		return strings.ReplaceAll(f.Name, `\`, "/")
	}
	return f.Name
}

func (u *unpacker) zipEntry(f *zip.File) error {
	mode, name := f.Mode(), zipName(f)
	switch {
	case strings.HasSuffix(name, "/") || mode.IsDir():
		return u.dir(name)
	case !mode.IsRegular() && mode.Type() != fs.ModeSymlink:
		return fmt.Errorf("%q is no file, directory or symbolic link", clipName(name))
	case f.UncompressedSize64 > uint64(u.limits.file):
		return fmt.Errorf("%q is larger than %d bytes", clipName(name), u.limits.file)
	}
	r, err := f.Open()
	if err != nil {
		return fmt.Errorf("%q: %w", clipName(name), err)
	}
	defer r.Close()
	if mode.Type() == fs.ModeSymlink {
		target, err := io.ReadAll(io.LimitReader(r, maxLink+1))
		if err != nil {
			return fmt.Errorf("%q: %w", clipName(name), err)
		}
		return u.link(name, string(target))
	}
	return u.file(name, int64(f.UncompressedSize64), mode, r)
}

// zipList reads a zip for as long as its list of entries is read, which archive/zip
// does to the end, whatever number of entries the file names. err says which limit
// the list is beyond.
type zipList struct {
	r       io.ReaderAt
	entries int
	bytes   int64
	read    bool // what comes now are contents
	err     error

	next int64 // where this reading goes on
	n    int64
	seen int
	tail []byte // of a header that began
}

// What begins an entry of the list, and the record that says how many there are of
// a large one (APPNOTE.TXT 4.3.12 and 4.3.14).
var (
	zipHeader = []byte("PK\x01\x02")
	zip64End  = []byte("PK\x06\x06")
)

func (l *zipList) ReadAt(p []byte, off int64) (int, error) {
	n, err := l.r.ReadAt(p, off)
	if l.read {
		return n, err
	}
	if off != l.next {
		l.n, l.seen, l.tail = 0, 0, nil
	}
	l.next = off + int64(n)
	l.n += int64(n)
	text := append(l.tail, p[:n]...)
	l.seen += bytes.Count(text, zipHeader)
	l.tail = append([]byte{}, text[max(0, len(text)-len(zipHeader)+1):]...)
	// archive/zip makes room for as many as are announced before it reads any.
	announced := len(p) >= 40 && bytes.HasPrefix(p, zip64End) && binary.LittleEndian.Uint64(p[32:]) > uint64(l.entries)
	switch {
	case l.seen > l.entries || announced:
		l.err = fmt.Errorf("it has more than %d entries", l.entries)
	case l.n > l.bytes:
		l.err = fmt.Errorf("its list of entries is longer than %d bytes", l.bytes)
	default:
		return n, err
	}
	return 0, l.err
}
