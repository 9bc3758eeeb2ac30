package snapshot

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"nofx.dev/shared/tree"
)

// Nodes reads stored directories of a tenant.
func (s *Store) Nodes(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
	return s.src.Nodes(ctx, tenant, digests)
}

// Files reads stored files of a tenant, each as a whole.
func (s *Store) Files(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest][]byte, error) {
	return s.src.Files(ctx, tenant, digests)
}

// SaveContents stores those of contents, files and directories, that are not stored yet, in
// their order. The rows it returns must be in before a tree that holds them is restored.
func (s *Store) SaveContents(ctx context.Context, tenant uuid.UUID, contents [][]byte) (Saved, error) {
	wanted := make([]content, len(contents))
	for i, c := range contents {
		wanted[i] = content{digest: tree.Sum(c), size: int64(len(c)), bytes: c}
	}
	saved, err := s.save(ctx, tenant, nil, wanted)
	if err != nil {
		return Saved{}, fmt.Errorf("save what was merged: %w", err)
	}
	return saved, nil
}
