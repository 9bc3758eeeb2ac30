package blob

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
)

// Open reads length bytes of the object at key, from off; a negative length
// reads to the end. An object too short for the range is corrupt. The context
// governs the whole read, not only the opening.
func (s *Store) Open(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	if length == 0 {
		return io.NopCloser(eof{}), nil // a range cannot say "nothing"
	}
	r, _, err := s.open(ctx, key, off, length)
	return r, err
}

// OpenTagged reads all of the object at key, as Open does, and returns the ETag of the
// content that is read, whatever takes its place meanwhile.
func (s *Store) OpenTagged(ctx context.Context, key string) (r io.ReadCloser, etag string, err error) {
	return s.open(ctx, key, 0, -1)
}

func (s *Store) open(ctx context.Context, key string, off, length int64) (r io.ReadCloser, etag string, err error) {
	var opts minio.GetObjectOptions
	switch {
	case length > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+length-1))
	case off > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	call, w := watch(ctx, s.stall)
	d := &download{ctx: ctx, key: key, watch: w}
	err = s.try(ctx, "open", key, func() error {
		w.arm()
		defer w.rest()
		body, info, _, err := s.core.GetObject(call, s.cfg.Bucket, key, opts)
		if err != nil {
			return w.blame(err)
		}
		if length > 0 && info.Size != length {
			body.Close()
			return Corrupt(fmt.Errorf("open %s: %d bytes at %d instead of %d", key, info.Size, off, length))
		}
		d.body, etag = body, info.ETag
		return nil
	})
	if err != nil {
		w.stop()
		return nil, "", err
	}
	return d, etag, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// download is an open object. A storage that falls silent within a Read fails
// it; a reader that takes its time between two does not.
type download struct {
	ctx   context.Context // of the call that opened it; it governs the reads too
	key   string
	body  io.ReadCloser
	watch *watchdog
}

func (d *download) Read(p []byte) (int, error) {
	d.watch.arm()
	n, err := d.body.Read(p)
	d.watch.rest()
	if err != nil && err != io.EOF {
		err = failed(d.ctx, "read", d.key, d.watch.blame(err))
	}
	return n, err
}

func (d *download) Close() error {
	defer d.watch.stop()
	return d.body.Close()
}

// Verify reads through to r and fails as corrupt, at the latest where r ends,
// unless it holds exactly size bytes with the digest sha. No byte beyond size is
// handed on. Every read of stored content that our code makes goes through it.
func Verify(r io.Reader, sha [32]byte, size int64) io.Reader {
	return &verified{r: r, hash: sha256.New(), sha: sha, left: size}
}

type verified struct {
	r    io.Reader
	hash hash.Hash
	sha  [32]byte
	left int64
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	if int64(n) > v.left {
		return int(v.left), Corrupt(fmt.Errorf("more bytes than recorded for %x", v.sha))
	}
	v.left -= int64(n)
	v.hash.Write(p[:n])
	if err != io.EOF {
		return n, err
	}
	if v.left > 0 {
		return n, Corrupt(fmt.Errorf("%d bytes missing of %x", v.left, v.sha))
	}
	if got := v.hash.Sum(nil); [32]byte(got) != v.sha {
		return n, Corrupt(fmt.Errorf("digest %x instead of %x", got, v.sha))
	}
	return n, io.EOF
}

// watchdog ends a transfer in which nothing moves.
type watchdog struct {
	limit  time.Duration
	timer  *time.Timer
	cancel context.CancelFunc
	barked atomic.Bool
}

// watch derives a context that ends when its watchdog, armed from the start, is
// not armed anew, put to rest or stopped for limit.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watchdog{limit: limit, cancel: cancel}
	w.timer = time.AfterFunc(limit, func() { w.barked.Store(true); cancel() })
	return ctx, w
}

func (w *watchdog) arm()  { w.timer.Reset(w.limit) }
func (w *watchdog) rest() { w.timer.Stop() }
func (w *watchdog) stop() { w.timer.Stop(); w.cancel() }

// blame adds to err, where there is one, that the watchdog caused it.
func (w *watchdog) blame(err error) error {
	if err != nil && w.barked.Load() {
		return fmt.Errorf("%w: %w", errStalled, err)
	}
	return err
}

// moving arms a watchdog at every read of an upload's body. It seeks, so that
// the client can repeat a request, and hides the reader's shortcuts.
type moving struct {
	r     io.ReadSeeker
	watch *watchdog
}

func (m *moving) Read(p []byte) (int, error) {
	m.watch.arm()
	return m.r.Read(p)
}

func (m *moving) Seek(off int64, whence int) (int64, error) { return m.r.Seek(off, whence) }
