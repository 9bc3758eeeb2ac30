package step

import (
	"context"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/tree"
)

// index answers for the rows of blobs what snapshots and trees ask.
type index struct{ db *postgres.DB }

// Locate is where the digests that are stored are.
func (x index) Locate(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]tree.Location, error) {
	found, err := x.blobs(ctx, tenant, digests)
	if err != nil {
		return nil, err
	}
	at := make(map[tree.Digest]tree.Location, len(found))
	for d, b := range found {
		at[d] = tree.Location{Pack: (*tree.Digest)(b.Pack), Off: b.Off, Len: b.Len, Size: b.Size}
	}
	return at, nil
}

// Known is which of the digests are stored and live.
func (x index) Known(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error) {
	found, err := x.blobs(ctx, tenant, digests)
	if err != nil {
		return nil, err
	}
	known := make(map[tree.Digest]bool, len(found))
	for d, b := range found {
		known[d] = !b.Condemned
	}
	return known, nil
}

// Condemn notes that an object is gone or corrupt.
func (x index) Condemn(ctx context.Context, tenant uuid.UUID, key string) error {
	return x.db.CondemnObject(ctx, tenant, key)
}

func (x index) blobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[[32]byte]postgres.Blob, error) {
	sums := make([][32]byte, len(digests))
	for i, d := range digests {
		sums[i] = d
	}
	return x.db.Blobs(ctx, tenant, sums)
}
