package checkpoint

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
)

// Start is what a step starts from: its pre checkpoint.
type Start struct {
	Checkpoint *postgres.Checkpoint
	State      State
	Tree       tree.Digest
}

// parents returns s as the parent of what the step leaves.
func (s *Start) parents() []postgres.Parent {
	ck := s.Checkpoint
	return []postgres.Parent{{ID: ck.ID, Digest: ck.Digest, Generation: ck.Generation}}
}

// Pre makes the pre checkpoint of a step whose dependencies all left the same tree, and
// states that need no base to be merged. That takes neither storage nor the database, so
// that it can be done inside the claim's transaction, which inserts the row. Otherwise it
// returns nil: then it is for Join.
func (m *Maker) Pre(ctx context.Context, parents []postgres.Parent) (*Start, error) {
	docs := make([][]byte, len(parents))
	for i, p := range parents {
		if p.State == nil || p.TreeDigest != parents[0].TreeDigest {
			return nil, nil
		}
		docs[i] = p.State
	}
	doc, ok, err := merge.Union(docs...)
	if err != nil || !ok {
		return nil, err
	}
	start := &Start{Tree: tree.Empty}
	if start.State, err = DecodeState(doc); err != nil {
		return nil, err
	}
	if len(parents) > 0 {
		if start.Tree, err = tree.ParseDigest(parents[0].TreeDigest); err != nil {
			return nil, err
		}
	}
	ck, contents, err := m.row(ctx, Content{Kind: run.PreCheckpoint, Parents: parents, State: start.State, Tree: start.Tree})
	if err != nil || contents != nil {
		return nil, err
	}
	start.Checkpoint = ck
	return start, nil
}

// Join makes the pre checkpoint of a step whose dependencies left different trees or
// states, or states too large for their rows. Conflicts mean that they do not fit
// together; then there is no start. Its row is the caller's to insert.
func (m *Maker) Join(ctx context.Context, parents []postgres.Parent) (*Start, []merge.Conflict, error) {
	docs := make([][]byte, len(parents))
	trees := make([]tree.Digest, len(parents))
	for i, p := range parents {
		var err error
		if docs[i], trees[i], err = m.content(ctx, p); err != nil {
			return nil, nil, err
		}
	}
	var baseDoc []byte
	baseTree := tree.Empty
	base, err := m.base(ctx, m.TenantID, parents)
	if err == nil && base != nil {
		baseDoc, baseTree, err = m.content(ctx, *base)
	}
	if err != nil {
		return nil, nil, err
	}
	doc, conflicts, err := merge.States(baseDoc, docs...)
	if err != nil {
		return nil, nil, err
	}
	joined, err := m.snapshots.Join(ctx, m.TenantID, baseTree, trees...)
	if err != nil {
		return nil, nil, err
	}
	if conflicts = append(joined.Conflicts, conflicts...); len(conflicts) > 0 {
		return nil, conflicts, nil
	}
	start := &Start{Tree: joined.Tree}
	if start.State, err = DecodeState(doc); err != nil {
		return nil, nil, err
	}
	start.Checkpoint, err = m.Make(ctx, Content{Kind: run.PreCheckpoint, Parents: parents, State: start.State, Tree: joined.Tree, Saved: joined.Saved})
	if err != nil {
		return nil, nil, err
	}
	return start, nil, nil
}

// base returns the nearest checkpoint that several ones come from, or nil.
func (s *Store) base(ctx context.Context, tenant uuid.UUID, of []postgres.Parent) (*postgres.Parent, error) {
	if len(of) < 2 {
		return nil, nil
	}
	ids := make([]uuid.UUID, len(of))
	for i, p := range of {
		ids[i] = p.ID
	}
	return s.db.CommonAncestor(ctx, tenant, ids)
}

// content returns the state document and the tree of a checkpoint.
func (m *Maker) content(ctx context.Context, p postgres.Parent) (doc []byte, root tree.Digest, err error) {
	if root, err = tree.ParseDigest(p.TreeDigest); err != nil {
		return nil, root, err
	}
	if p.State != nil {
		return p.State, root, nil
	}
	d, err := tree.ParseDigest(p.StateDigest)
	if err != nil {
		return nil, root, err
	}
	if doc, err = m.Read(ctx, m.TenantID, d); err != nil {
		return nil, root, fmt.Errorf("state of checkpoint %s: %w", p.ID, err)
	}
	return doc, root, nil
}
