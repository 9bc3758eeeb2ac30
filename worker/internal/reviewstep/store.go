package reviewstep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// store keeps the pieces of a review as artifacts of its step: bytes first, rows second.
type store struct {
	Config
	call   Call
	review uuid.UUID
	reuse  bool // answers that other reviews have
}

// Load returns a piece that is stored for an input. One whose bytes are lost is not there.
// Answers of models cost money: what any review of the tenant has is as good as its own.
func (s *store) Load(ctx context.Context, stage string, ordinal int, input string) ([]byte, bool, error) {
	a, err := s.DB.FindReviewArtifact(ctx, s.call.Claim.TenantID, s.review, stage, ordinal, input, s.reuse && strings.HasSuffix(stage, "answer"))
	if errors.Is(err, fault.NotFound) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	body, err := read(ctx, s.Blobs, a)
	switch {
	case err == nil:
		return body, true, nil
	case lost(err):
		return nil, false, nil
	}
	return nil, false, err
}

// Save stores a piece, in place of one that was made of another input.
func (s *store) Save(ctx context.Context, stage string, ordinal int, input, mediaType string, body []byte) error {
	digest := sha256.Sum256(body)
	tenant := s.call.Claim.TenantID
	key := blob.CopyKey(tenant, digest, blob.NewCopy())
	if err := s.call.Fresh(ctx); err != nil {
		return err
	}
	if err := s.Blobs.Put(ctx, key, bytes.NewReader(body), int64(len(body)), blob.PutOptions{ContentType: mediaType, SHA256: &digest}); err != nil {
		return err
	}
	name := stage
	if !strings.Contains(stage, ".") {
		name = fmt.Sprintf("%s.%d", stage, ordinal)
	}
	return s.DB.KeepReviewArtifact(ctx, s.call.Claim, s.review, postgres.ReviewArtifact{
		Stage: stage, Ordinal: ordinal, Input: input,
		Artifact: run.Artifact{ID: run.NewID(), Name: name, Key: key, MediaType: mediaType, Size: int64(len(body)), SHA256: digest[:]},
	})
}
