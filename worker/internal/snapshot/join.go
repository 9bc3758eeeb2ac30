package snapshot

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
)

// Joined is what became of several trees. With conflicts there is no tree.
type Joined struct {
	Tree      tree.Digest
	Conflicts []merge.Conflict
	Saved     Saved // the directories that are new; insert the rows before restoring Tree
}

// Join merges stored trees into one, as [merge.Trees] does, and stores it. base is the
// tree that all of them come from.
func (s *Store) Join(ctx context.Context, tenant uuid.UUID, base tree.Digest, trees ...tree.Digest) (Joined, error) {
	nodes := func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
		return s.src.Nodes(ctx, tenant, digests)
	}
	merged, err := merge.Trees(ctx, nodes, base, trees...)
	if err != nil || len(merged.Conflicts) > 0 {
		if err != nil {
			err = fmt.Errorf("join trees: %w", err)
		}
		return Joined{Conflicts: merged.Conflicts}, err
	}
	wanted := make([]content, len(merged.Nodes))
	for i, node := range merged.Nodes {
		wanted[i] = content{digest: tree.Sum(node), size: int64(len(node)), bytes: node}
	}
	saved, err := s.save(ctx, tenant, nil, wanted)
	if err != nil {
		return Joined{}, fmt.Errorf("join trees: save: %w", err)
	}
	return Joined{Tree: merged.Tree, Saved: saved}, nil
}
