package system

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/tool"
)

// verify copies an upload to where it stays, and makes it readable if it is what was
// announced. It is copied by us and not by the storage: whoever has the URL may put
// other bytes meanwhile, and only what passed through here is known to be right. An
// attempt that finds the artifact readable has nothing left to do.
func verify(ctx context.Context, cfg Config, c Call, in run.VerifyInputs) (tool.Result, error) {
	a, content, etag, err := openUpload(ctx, cfg, c, in.ArtifactID)
	if err == nil && content != nil {
		defer content.Close()
		err = keepUpload(ctx, cfg, c, a, content)
	}
	switch {
	case errors.Is(err, fault.NotFound):
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "the upload was given up: %w", err)
	case errors.Is(err, fault.Gone):
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "nothing was put at the artifact's URL: %w", err)
	case errors.Is(err, fault.Conflict) && etag != in.ETag:
		// The error is about other bytes than this step: if those are put once more, they
		// must not be refused because of it.
		return tool.Result{}, tool.Failuref(run.ClassTool, "other bytes were put after these were to be verified: %w", err)
	case errors.Is(err, fault.Conflict):
		return tool.Result{}, &tool.Failure{
			Class:  run.ClassInvalid,
			Reason: fmt.Sprintf("what was put is not %s with the SHA-256 %s", fault.Count(a.Size, "byte"), hex.EncodeToString(a.SHA256)), Err: err,
		}
	case err != nil:
		return tool.Result{}, err
	}
	fmt.Fprintf(c.Log, "verified %s\n", fault.Count(a.Size, "byte"))
	return tool.Result{}, nil
}

// openUpload returns an artifact, the content that a client put for it, which is nil once
// it has been verified, and the ETag of that content. Missing content is fault.Gone; an
// artifact that was given up is fault.NotFound.
func openUpload(ctx context.Context, cfg Config, c Call, id string) (a run.Artifact, content io.ReadCloser, etag string, err error) {
	parsed, err := run.ArtifactID.Parse(id)
	if err != nil {
		return run.Artifact{}, nil, "", err
	}
	a, err = cfg.DB.Upload(ctx, c.Claim.TenantID, parsed)
	if err != nil || a.State != run.Pending {
		return a, nil, "", err
	}
	content, etag, err = cfg.Blobs.OpenTagged(ctx, a.Key)
	return a, content, etag, err
}

// keepUpload stores content where clients cannot write, and makes a readable. Content that
// is not what a announces is fault.Conflict, and nothing is kept.
func keepUpload(ctx context.Context, cfg Config, c Call, a run.Artifact, content io.Reader) error {
	sum := [32]byte(a.SHA256)
	if at, err := cfg.DB.LocateBlobs(ctx, c.Claim.TenantID, []tree.Digest{sum}); err != nil {
		return err
	} else if at[sum].Purged {
		return tool.Failuref(run.ClassInvalid, "the content was purged and is not stored again")
	}
	key := blob.CopyKey(c.Claim.TenantID, sum, blob.NewCopy())
	if err := cfg.Blobs.Put(ctx, key, blob.Verify(content, sum, a.Size), a.Size, blob.PutOptions{SHA256: &sum}); err != nil {
		return err
	}
	if err := c.Fresh(ctx); err != nil {
		return err
	}
	return cfg.DB.CompleteUpload(ctx, c.Claim, a.ID, key)
}
