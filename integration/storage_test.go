package integration_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"testing"
	"time"

	s3client "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"nofx.dev/integration/harness"
)

// storage is the bucket of a stack, as its owner sees it.
type storage struct{ s3 harness.S3 }

func (s *storage) open(t *testing.T) *s3client.Client {
	t.Helper()
	u, err := url.Parse(s.s3.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s3client.New(u.Host, &s3client.Options{Creds: credentials.NewStaticV4(s.s3.AccessKey, s.s3.SecretKey, ""), Region: s.s3.Region})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// keys returns every object of the bucket with its time of writing.
func (s *storage) keys(t *testing.T) map[string]time.Time {
	t.Helper()
	all := map[string]time.Time{}
	for o := range s.open(t).ListObjectsIter(t.Context(), s.s3.Bucket, s3client.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatalf("list objects: %v", o.Err)
		}
		all[o.Key] = o.LastModified
	}
	return all
}

// digest reads an object to its end.
func (s *storage) digest(ctx context.Context, c *s3client.Client, key string) (string, int64, error) {
	o, err := c.GetObject(ctx, s.s3.Bucket, key, s3client.GetObjectOptions{})
	if err != nil {
		return "", 0, err
	}
	defer o.Close()
	h := sha256.New()
	n, err := io.Copy(h, o)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// holdObjects fails the test for each row that names bytes which are not there or
// are others: objects, and chunks of logs.
func (s *system) holdObjects(t *testing.T) {
	t.Helper()
	c := s.storage.open(t)
	rows := list[[]string](t, s, `
		SELECT ARRAY[key, encode(sha256, 'hex'), bytes::text] FROM nofx.object
		UNION ALL SELECT ARRAY[key, encode(sha256, 'hex'), bytes::text] FROM nofx.log_chunk WHERE mark IS NULL
		UNION ALL SELECT ARRAY[a.key, encode(a.sha256, 'hex'), a.size_bytes::text] FROM nofx.artifact a
		WHERE NOT EXISTS (SELECT FROM nofx.blob b WHERE b.tenant_id = a.tenant_id AND b.sha256 = a.sha256 AND b.state = 'tombstone')`)
	if len(rows) == 0 {
		t.Error("no row names an object, want some")
	}
	for _, row := range rows {
		digest, n, err := s.storage.digest(t.Context(), c, row[0])
		if err != nil || digest != row[1] || fmt.Sprint(n) != row[2] {
			t.Errorf("object %s = %s of %d bytes, %v; its row says %s of %s", row[0], digest, n, err, row[1], row[2])
		}
	}
}
