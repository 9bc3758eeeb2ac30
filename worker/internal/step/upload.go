package step

import (
	"context"
	"io"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/run"
)

// clientUploads are what clients have put, for an attempt of sys:verify.
type clientUploads struct{ *attempt }

// Open implements [tool.Uploads].
func (u clientUploads) Open(ctx context.Context, id string) (a run.Artifact, content io.ReadCloser, etag string, err error) {
	parsed, err := run.ArtifactID.Parse(id)
	if err != nil {
		return run.Artifact{}, nil, "", err
	}
	a, err = u.db.Upload(ctx, u.claim.TenantID, parsed)
	if err != nil || a.State != run.Pending {
		return a, nil, "", err
	}
	content, etag, err = u.blobs.OpenTagged(ctx, a.Key)
	return a, content, etag, err
}

// Keep implements [tool.Uploads].
func (u clientUploads) Keep(ctx context.Context, a run.Artifact, content io.Reader) error {
	sum := [32]byte(a.SHA256)
	key := blob.BlobKey(u.claim.TenantID, sum)
	if err := u.blobs.Put(ctx, key, blob.Verify(content, sum, a.Size), a.Size, blob.PutOptions{SHA256: &sum}); err != nil {
		return err
	}
	if err := u.leases.Fresh(ctx, u.claim); err != nil {
		return err
	}
	return u.db.CompleteUpload(ctx, u.claim, a.ID, key)
}
