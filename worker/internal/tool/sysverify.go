package tool

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// Uploads gives sys:verify what clients have put into storage.
type Uploads interface {
	// Open returns an artifact of the tenant, what was put for it, which is nil once it
	// has been verified, and the ETag of that. Nothing there is fault.Gone; an artifact
	// that was given up is fault.NotFound.
	Open(ctx context.Context, id string) (a run.Artifact, content io.ReadCloser, etag string, err error)
	// Keep stores content where nobody but this system writes and makes a readable.
	// Content that is not what a announces is fault.Conflict, and nothing is kept.
	Keep(ctx context.Context, a run.Artifact, content io.Reader) error
}

// verify copies an upload to where it stays, and makes it readable if it is what was
// announced. It is copied by us and not by the storage: whoever has the URL may put
// other bytes meanwhile, and only what passed through here is known to be right. An
// attempt that finds the artifact readable has nothing left to do.
func (b *Box) verify(ctx context.Context, c Call, in run.VerifyInputs) (Result, error) {
	a, content, etag, err := c.Uploads.Open(ctx, in.ArtifactID)
	if err == nil && content != nil {
		defer content.Close()
		err = c.Uploads.Keep(ctx, a, content)
	}
	switch {
	case ctx.Err() != nil:
		return Result{}, ended(ctx)
	case errors.Is(err, fault.NotFound):
		return Result{}, failure(run.ClassInvalid, "the upload was given up: %w", err)
	case errors.Is(err, fault.Gone):
		return Result{}, failure(run.ClassInvalid, "nothing was put at the artifact's URL: %w", err)
	case errors.Is(err, fault.Conflict) && etag != in.ETag:
		// They say nothing of those that this step is about: put once more, those would
		// be refused because of it.
		return Result{}, failure(run.ClassTool, "other bytes were put after these were to be verified: %w", err)
	case errors.Is(err, fault.Conflict):
		return Result{}, &Failure{
			Class:  run.ClassInvalid,
			Reason: fmt.Sprintf("what was put is not %d bytes with the SHA-256 %s", a.Size, hex.EncodeToString(a.SHA256)), Err: err,
		}
	case err != nil:
		return Result{}, err
	}
	fmt.Fprintf(c.Log, "verified %d bytes\n", a.Size)
	return Result{}, nil
}
