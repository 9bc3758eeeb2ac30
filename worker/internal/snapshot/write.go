package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/tree"
)

// buffers are for reading small content, each for one.
var buffers = sync.Pool{New: func() any { b := make([]byte, tree.Small); return &b }}

// write makes every file and link whose content is of digest d. Small content is
// read to its end, and so verified, before the first is made; large content is
// streamed into the first file and copied from there to the others.
func (r *restorer) write(d tree.Digest, content io.Reader) error {
	targets := r.files[d]
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := io.ReadFull(content, *buf)
	switch {
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		for _, t := range targets {
			if err := r.make(t, bytes.NewReader((*buf)[:n])); err != nil {
				return err
			}
		}
		return nil
	case err != nil:
		return err
	}
	if err := r.make(targets[0], io.MultiReader(bytes.NewReader((*buf)[:n]), content)); err != nil {
		return err
	}
	for _, t := range targets[1:] {
		if err := r.copy(targets[0], t); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) copy(from, to target) error {
	f, err := r.root.Open(from.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.make(to, f)
}

// make makes one file or link, where nothing is.
func (r *restorer) make(t target, content io.Reader) error {
	if t.entry().Mode == tree.Symlink {
		return r.makeLink(t, content)
	}
	f, err := r.root.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Chmod(permOf(t.entry().Mode)) // whatever the umask
	}
	if err == nil {
		err = r.note(t, f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, r.root.Remove(t.path))
	}
	return nil
}

// makeLink makes a link with the text as it is stored, wherever that leads:
// nothing of ours follows it.
func (r *restorer) makeLink(t target, content io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(content, unix.PathMax))
	if err != nil {
		return err
	}
	if len(text) == 0 || len(text) == unix.PathMax || bytes.IndexByte(text, 0) >= 0 {
		return blob.Corrupt(fmt.Errorf("%s: a link of %d bytes", t.path, len(text)))
	}
	// Its looks are not noted: reading it again costs as much as looking.
	return r.root.Symlink(string(text), t.path)
}

// chmod gives a file or directory that is there the permissions of its mode.
func (r *restorer) chmod(t target) error {
	f, err := r.root.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(permOf(t.entry().Mode)); err != nil {
		return err
	}
	return r.note(t, f)
}

// note remembers what a restored file looks like, for the next scan.
func (r *restorer) note(t target, f *os.File) error {
	st, err := fstat(f, r.w.now())
	t.dir.stats[t.i] = st
	return err
}
