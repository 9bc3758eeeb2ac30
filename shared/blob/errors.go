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

const codeUnavailable = "storage-unavailable"

var errStalled = errors.New("no byte moved within the time limit")

// Gone is the error of an object that should be there and is not: fault.Gone
// with code object-gone. The cause names the object and goes to logs only.
func Gone(cause error) error {
	return fault.New(fault.Gone, "object-gone", "the stored object is gone").Because(cause)
}

// Corrupt is the error of stored bytes that are not what was stored:
// fault.Conflict with code object-corrupt. The cause goes to logs only.
func Corrupt(cause error) error {
	return fault.New(fault.Conflict, "object-corrupt", "the stored object is corrupt").Because(cause)
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
func try(ctx context.Context, doing, key string, request func() error) error {
	for n := 1; ; n++ {
		err := failed(ctx, doing, key, request())
		late := errors.Is(err, errStalled) || errors.Is(err, context.DeadlineExceeded)
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
		return err
	}
	cause := fmt.Errorf("%s %s: %w", doing, key, err)
	resp, ok := errors.AsType[minio.ErrorResponse](err)
	switch {
	case !ok: // no answer at all: refused, reset, cut, timed out
		return unavailable(cause)
	case resp.Code == minio.NoSuchKey:
		return Gone(cause)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return Corrupt(cause)
	case resp.Code == minio.NoSuchBucket, resp.StatusCode >= 500,
		resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooManyRequests:
		return unavailable(cause)
	case resp.StatusCode == http.StatusNotFound:
		return Gone(cause)
	default:
		return cause
	}
}
