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

// SaveNodes stores those of directories that are not stored yet. The rows it returns
// must be in before a tree that holds them is restored.
func (s *Store) SaveNodes(ctx context.Context, tenant uuid.UUID, nodes [][]byte) (Saved, error) {
	wanted := make([]content, len(nodes))
	for i, node := range nodes {
		wanted[i] = content{digest: tree.Sum(node), size: int64(len(node)), bytes: node}
	}
	saved, err := s.save(ctx, tenant, nil, wanted)
	if err != nil {
		return Saved{}, fmt.Errorf("save directories: %w", err)
	}
	return saved, nil
}
