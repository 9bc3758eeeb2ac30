package tool

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
)

// tarLabel is the kind of the entry with which GNU tar labels a volume.
const tarLabel = 'V'

// tarHeader is what a tar adds to a file at the most, padding and a long name
// included.
const tarHeader = 4 << 10

// tar unpacks a tar.gz.
func (u *unpacker) tar(r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	archive := tar.NewReader(&bounded{r: z, most: u.most() + int64(u.limits.files)*tarHeader})
	for u.ctx.Err() == nil {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader, tarLabel: // of git archive and of tar -V: about no file
		case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
			err = u.file(h.Name, h.Size, h.FileInfo().Mode(), archive)
		case tar.TypeDir:
			err = u.dir(h.Name)
		case tar.TypeSymlink:
			err = u.link(h.Name, h.Linkname)
		case tar.TypeLink:
			err = u.hardLink(h.Name, h.Linkname)
		default:
			err = fmt.Errorf("%q is no file, directory or symbolic link", clipName(h.Name))
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(u.ctx)
}

// bounded is a stream that may not become longer than most bytes.
type bounded struct {
	r       io.Reader
	n, most int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.n += int64(n); b.n > b.most {
		return n, fmt.Errorf("it unpacks to more than %d bytes", b.most)
	}
	return n, err
}
