package blob

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"

	"nofx.dev/shared/fault"
)

// retryAfter is what a caller is told to wait for a storage that is down.
const retryAfter = 5 * time.Second

const (
	codeUnavailable = "storage-unavailable"
	codeGone        = "object-gone"
	codeCorrupt     = "object-corrupt"
)

// longTry is how long a request that fails may take without a line in the log.
const longTry = time.Second

var errStalled = errors.New("no byte moved within the time limit")

// Gone returns the error of an object that should be there and is not: fault.Gone
// with code object-gone. The cause names the object and goes to logs only.
func Gone(cause error) error {
	return fault.New(fault.Gone, codeGone, "the stored object is gone").Because(cause)
}

// Purged returns the error of content whose bytes an administrator has deleted for good:
// fault.Gone with code object-gone, which is no loss that is to be repaired.
func Purged(cause error) error {
	return fault.New(fault.Gone, codeGone, "the stored object was purged by an administrator").Because(fmt.Errorf("%w: %w", errPurged, cause))
}

// IsPurged reports whether err says that content was purged.
func IsPurged(err error) bool { return errors.Is(err, errPurged) }

var errPurged = errors.New("purged")

// Corrupt returns the error of stored bytes that are not what was stored:
// fault.Conflict with code object-corrupt. The cause goes to logs only.
func Corrupt(cause error) error {
	return fault.New(fault.Conflict, codeCorrupt, "the stored object is corrupt").Because(cause)
}

// lost is an error of kind Gone or Corrupt with the key of its object.
type lost struct {
	error
	key string
}

func (l *lost) Unwrap() error { return l.error }

// At has err name the object at key, if it says that an object is gone or corrupt
// and does not name one yet.
func At(key string, err error) error {
	if named, ok := Lost(err); !ok || named != "" {
		return err
	}
	return &lost{err, key}
}

// Lost reports whether err says that an object is gone or corrupt, and which. The key
// is empty where there is no object, as for content that no row names.
func Lost(err error) (key string, ok bool) {
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Code != codeGone && e.Code != codeCorrupt {
		return "", false
	}
	if l, ok := errors.AsType[*lost](err); ok {
		key = l.key
	}
	return key, true
}

func unavailable(cause error) error {
	e := fault.New(fault.Unavailable, codeUnavailable, "object storage is not available").Because(cause)
	e.RetryAfter = retryAfter
	return e
}

// IsUnavailable reports whether err says that object storage did not answer.
func IsUnavailable(err error) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Code == codeUnavailable
}

// try runs one request until it succeeds, fails for good or has failed attempts
// times. A storage that let a time limit pass is not asked again.
func (s *Store) try(ctx context.Context, doing, key string, request func() error) error {
	for n := 1; ; n++ {
		began := time.Now()
		err := failed(ctx, doing, key, request())
		late := errors.Is(err, errStalled) || errors.Is(err, context.DeadlineExceeded)
		if took := time.Since(began); errors.Is(err, fault.Unavailable) && (late || took > longTry) {
			s.log.WarnContext(ctx, "storage is slow to answer", "host", s.core.EndpointURL().Host, "doing", doing, "key", key, "try", n, "ms", took.Milliseconds())
		}
		if n == attempts || late || !errors.Is(err, fault.Unavailable) {
			return err
		}
		select {
		case <-time.After(rand.N(100 * time.Millisecond << n)):
		case <-ctx.Done():
			return failed(ctx, doing, key, ctx.Err())
		}
	}
}

// failed turns an error of the S3 client into one of ours. ctx is the caller's,
// without our own limits: its end is the caller's business and stays what it is,
// while a limit of ours that ran out means that the storage is not answering.
func failed(ctx context.Context, doing, key string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", doing, key, context.Cause(ctx))
	}
	if fault.KindOf(err) != "" {
		return At(key, err)
	}
	cause := fmt.Errorf("%s %s: %w", doing, key, err)
	resp, ok := errors.AsType[minio.ErrorResponse](err)
	switch {
	case !ok: // no answer at all: refused, reset, cut, timed out
		return unavailable(cause)
	case resp.Code == minio.NoSuchKey:
		return At(key, Gone(cause))
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return At(key, Corrupt(cause))
	case resp.Code == minio.NoSuchBucket, resp.StatusCode >= 500,
		resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests:
		return unavailable(cause)
	case resp.StatusCode == http.StatusNotFound:
		return At(key, Gone(cause))
	default:
		return cause
	}
}
