package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
)

// partSize is both the largest object sent in one request and the size of a
// part above it, hence the memory one Put holds.
const partSize = 16 << 20

// PutOptions describes an object; the zero value will do.
type PutOptions struct {
	ContentType     string
	ContentEncoding string
	SHA256          *[32]byte // what the bytes must hash to, or nothing is stored
}

// Put stores exactly size bytes of r at key, in parts when they are more than
// 16 MiB. It holds one part in memory, so that each request carries its own
// digest and can be repeated. Should r yield more or fewer bytes, or other bytes
// than opts.SHA256, nothing is stored and the error is a fault.Conflict with
// code content-changed.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, size int64, opts PutOptions) error {
	u := &upload{store: s, key: key, r: r, left: size, whole: sha256.New(), opts: opts}
	send := u.inOne
	if size > partSize {
		send = u.inParts
	}
	if err := send(ctx); err != nil {
		return err
	}
	return failed(ctx, "put", key, failpoint.Hit(failpoint.AfterPut))
}

// upload is one Put on its way.
type upload struct {
	store *Store
	key   string
	r     io.Reader
	left  int64
	buf   []byte
	whole hash.Hash
	opts  PutOptions
}

func (u *upload) inOne(ctx context.Context) error {
	opts := u.headers()
	opts.DisableContentSha256 = true // the digest goes with the request as a whole, not per chunk
	return u.send(ctx, func(ctx context.Context, body io.Reader, size int64, digest string) error {
		_, err := u.store.core.PutObject(ctx, u.store.cfg.Bucket, u.key, body, size, "", digest, opts)
		return err
	})
}

func (u *upload) inParts(ctx context.Context) (err error) {
	id, err := u.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.abort(ctx, id))
		}
	}()

	var parts []minio.CompletePart
	for n := 1; u.left > 0; n++ {
		if n > 1 {
			if err := failpoint.Hit(failpoint.MidUpload); err != nil {
				return failed(ctx, "put", u.key, err)
			}
		}
		err := u.send(ctx, func(ctx context.Context, body io.Reader, size int64, digest string) error {
			part, err := u.store.core.PutObjectPart(ctx, u.store.cfg.Bucket, u.key, id, n, body, size,
				minio.PutObjectPartOptions{Sha256Hex: digest, DisableContentSha256: true})
			if err == nil {
				parts = append(parts, minio.CompletePart{PartNumber: n, ETag: part.ETag})
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return u.complete(ctx, id, parts)
}

// send reads the next part and sends it in one request, which may be repeated.
func (u *upload) send(ctx context.Context, request func(ctx context.Context, body io.Reader, size int64, digest string) error) error {
	b, digest, err := u.next()
	if err != nil {
		return err
	}
	return u.store.try(ctx, "put", u.key, func() error {
		call, w := watch(ctx, u.store.patience(len(b)))
		defer w.stop()
		err := request(call, &moving{bytes.NewReader(b), w}, int64(len(b)), digest)
		if err != nil {
			u.buf = nil // the refused request may still be reading it
		}
		return w.blame(err)
	})
}

// patience returns how long a storage may be silent that was sent so many bytes: they may
// be on their way for long after the last was taken from us.
func (s *Store) patience(size int) time.Duration {
	return s.stall/3 + time.Duration(float64(s.stall)*2/3*float64(size)/partSize)
}

func (u *upload) start(ctx context.Context) (id string, err error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = u.store.try(ctx, "put", u.key, func() (err error) {
		id, err = u.store.core.NewMultipartUpload(call, u.store.cfg.Bucket, u.key, u.headers())
		return err
	})
	return id, err
}

func (u *upload) complete(ctx context.Context, id string, parts []minio.CompletePart) error {
	call, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	return u.store.try(ctx, "put", u.key, func() error {
		_, err := u.store.core.CompleteMultipartUpload(call, u.store.cfg.Bucket, u.key, id, parts, u.headers())
		return err
	})
}

// abort frees the parts already sent, also when ctx has ended: otherwise they
// stay, invisible, until somebody cleans the bucket.
func (u *upload) abort(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := u.store.core.AbortMultipartUpload(ctx, u.store.cfg.Bucket, u.key, id); err != nil {
		return fmt.Errorf("abort multipart upload: %w", err)
	}
	return nil
}

// next reads the next part and, after the last, checks that r was what was
// promised. The returned bytes are valid until the next call.
func (u *upload) next() (body []byte, digest string, err error) {
	if u.buf == nil {
		u.buf = make([]byte, min(u.left, partSize))
	}
	body = u.buf[:min(u.left, partSize)]
	switch n, err := io.ReadFull(u.r, body); {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, "", changed("%d bytes are missing", u.left-int64(n))
	case err != nil:
		return nil, "", fmt.Errorf("put %s: read the content: %w", u.key, err)
	}
	u.left -= int64(len(body))
	u.whole.Write(body)
	if u.left == 0 {
		switch n, err := io.ReadFull(u.r, make([]byte, 1)); {
		case n > 0:
			return nil, "", changed("there are more bytes than expected")
		case err != io.EOF:
			return nil, "", fmt.Errorf("put %s: read the content: %w", u.key, err)
		}
		if want := u.opts.SHA256; want != nil && [32]byte(u.whole.Sum(nil)) != *want {
			return nil, "", changed("the digest is different")
		}
	}
	sum := sha256.Sum256(body)
	return body, hex.EncodeToString(sum[:]), nil
}

func changed(format string, args ...any) error {
	return fault.New(fault.Conflict, "content-changed", "the content changed while it was being stored").
		Because(fmt.Errorf(format, args...))
}

func (u *upload) headers() minio.PutObjectOptions {
	return minio.PutObjectOptions{ContentType: u.opts.ContentType, ContentEncoding: u.opts.ContentEncoding}
}
