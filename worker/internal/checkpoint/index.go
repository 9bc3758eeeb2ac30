package checkpoint

import (
	"context"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/tree"
)

// Index answers from the rows of blobs what snapshots and trees ask.
type Index struct{ DB *postgres.DB }

// Locate returns where the digests that are stored are.
func (x Index) Locate(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]tree.Location, error) {
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

// Known reports which of the digests are stored and live.
func (x Index) Known(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest]bool, error) {
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
func (x Index) Condemn(ctx context.Context, tenant uuid.UUID, key string) error {
	return x.DB.CondemnObject(ctx, tenant, key)
}

func (x Index) blobs(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[[32]byte]postgres.Blob, error) {
	sums := make([][32]byte, len(digests))
	for i, d := range digests {
		sums[i] = d
	}
	return x.DB.Blobs(ctx, tenant, sums)
}
