package blob

import (
	"context"
	"time"

	"github.com/minio/minio-go/v7"
)

// Listed is an object as a listing shows it.
type Listed struct {
	Key      string
	Size     int64
	Modified time.Time
}

// listAtOnce is the number of keys of a page, the most that S3 answers.
const listAtOnce = 1000

// List calls fn with the objects whose keys begin with prefix, page by page in the order of
// the keys. The first error of fn ends it.
func (s *Store) List(ctx context.Context, prefix string, fn func([]Listed) error) error {
	listing, cancel := context.WithCancel(ctx)
	defer cancel() // ends the client's goroutine where fn does not want more
	var list []Listed
	for o := range s.core.Client.ListObjects(listing, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, MaxKeys: listAtOnce}) {
		if o.Err != nil {
			return failed(ctx, "list", prefix, o.Err)
		}
		if list = append(list, Listed{o.Key, o.Size, o.LastModified}); len(list) < listAtOnce {
			continue
		}
		if err := fn(list); err != nil {
			return err
		}
		list = nil
	}
	if err := ctx.Err(); err != nil || len(list) == 0 {
		return failed(ctx, "list", prefix, err)
	}
	return fn(list)
}

// AbortUploads ends uploads in parts to keys that begin with prefix which were begun before
// a time and never completed, and returns their number. Their parts are freed.
func (s *Store) AbortUploads(ctx context.Context, prefix string, before time.Time) (n int, err error) {
	key, id := "", ""
	for {
		var page minio.ListMultipartUploadsResult
		err := s.try(ctx, "list uploads", prefix, func() (err error) {
			page, err = s.core.ListMultipartUploads(ctx, s.cfg.Bucket, prefix, key, id, "", listAtOnce)
			return err
		})
		if err != nil {
			return n, err
		}
		for _, u := range page.Uploads {
			if !u.Initiated.Before(before) {
				continue
			}
			if err := s.try(ctx, "abort", u.Key, func() error { return s.core.AbortMultipartUpload(ctx, s.cfg.Bucket, u.Key, u.UploadID) }); err != nil {
				return n, err
			}
			n++
		}
		if !page.IsTruncated || len(page.Uploads) == 0 {
			return n, nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
