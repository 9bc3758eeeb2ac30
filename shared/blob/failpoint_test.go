package blob

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
)

// The windows of an upload: between two parts nothing is visible and nothing
// stays behind, after it the object is there although the caller has failed.
// Not parallel: failpoints are the process's.
func TestFailpoints(t *testing.T) {
	defer failpoint.Init(os.Getenv, slog.New(slog.DiscardHandler), nil)
	s := open(t, nil)
	large, sum := random(t, partSize+1)
	small := sha256.Sum256(large[:10])
	for _, c := range []struct {
		point  string
		body   []byte
		sum    [32]byte
		stored bool
		hits   int
	}{
		{failpoint.MidUpload, large, sum, false, 1},
		{failpoint.MidUpload, large[:10], small, true, 0}, // in one piece
		{failpoint.AfterPut, large, sum, true, 1},
		{failpoint.AfterPut, large[:10], small, true, 1},
	} {
		hits := 0
		env := map[string]string{"NOFX_TEST": "1", "NOFX_FAILPOINTS": c.point + "=error"}
		err := failpoint.Init(func(k string) string { return env[k] }, slog.New(slog.DiscardHandler), func(string) { hits++ })
		if err != nil {
			t.Fatal(err)
		}

		key := BlobKey(uuid.New(), c.sum)
		err = s.Put(t.Context(), key, bytes.NewReader(c.body), int64(len(c.body)), PutOptions{})
		if hits != c.hits || errors.Is(err, failpoint.ErrInjected) != (hits > 0) {
			t.Errorf("Put(%d bytes) at %s = %v after %d hits, want %d hits", len(c.body), c.point, err, hits, c.hits)
		}
		if _, err := s.Stat(t.Context(), key); errors.Is(err, fault.Gone) == c.stored {
			t.Errorf("Stat after %s = %v, want stored %t", c.point, err, c.stored)
		}
		left, err := s.core.ListMultipartUploads(t.Context(), s.cfg.Bucket, key, "", "", "", 10)
		if err != nil || len(left.Uploads) != 0 {
			t.Errorf("ListMultipartUploads after %s = %v, %v, want none", c.point, left.Uploads, err)
		}
	}
}
