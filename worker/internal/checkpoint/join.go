package checkpoint

import (
	"context"
	"fmt"
	"slices"

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
		start.Tree = parents[0].TreeDigest
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
	src := merge.Source{
		Nodes: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
			return m.snapshots.Nodes(ctx, m.TenantID, digests)
		},
		File: func(ctx context.Context, d tree.Digest) ([]byte, error) { return m.Read(ctx, m.TenantID, d) },
	}
	newest, err := m.newest(ctx, m.TenantID, parents)
	if err != nil {
		return nil, nil, err
	}
	u, err := m.unite(ctx, src, newest)
	if err != nil {
		return nil, nil, fmt.Errorf("join %d checkpoints: %w", len(parents), err)
	}
	if len(u.conflicts) > 0 {
		return nil, u.conflicts, nil
	}
	start := &Start{Tree: u.tree.Tree}
	if start.State, err = DecodeState(u.state); err != nil {
		return nil, nil, err
	}
	saved, err := m.snapshots.SaveContents(ctx, m.TenantID, u.tree.Made)
	if err != nil {
		return nil, nil, err
	}
	start.Checkpoint, err = m.Make(ctx, Content{Kind: run.PreCheckpoint, Parents: parents, State: start.State, Tree: start.Tree, Saved: saved})
	if err != nil {
		return nil, nil, err
	}
	return start, nil, nil
}

// union is what several checkpoints come to together. With conflicts it is nothing.
type union struct {
	state     []byte
	tree      merge.Merged
	conflicts []merge.Conflict
}

// unite merges the states and the trees of checkpoints over the nearest one that all of
// them come from. Where there are several nearest ones, what they left came together
// before: the base is what these come to together, and not one of them, since then all
// that the others left would look like a change of every side. Where they do not fit
// together, the first of them is the base.
func (m *Maker) unite(ctx context.Context, src merge.Source, checkpoints []postgres.Parent) (union, error) {
	bases, err := m.bases(ctx, m.TenantID, checkpoints)
	if err != nil {
		return union{}, err
	}
	base := union{tree: merge.Merged{Tree: tree.Empty}}
	if len(bases) > 1 {
		if base, err = m.unite(ctx, src, bases); err != nil {
			return union{}, err
		}
		src = base.tree.Over(src)
	}
	if len(bases) == 1 || len(base.conflicts) > 0 {
		if base.state, base.tree.Tree, err = m.content(ctx, bases[0]); err != nil {
			return union{}, err
		}
	}
	states := make([][]byte, len(checkpoints))
	trees := make([]tree.Digest, len(checkpoints))
	for i, p := range checkpoints {
		if states[i], trees[i], err = m.content(ctx, p); err != nil {
			return union{}, err
		}
	}
	var u union
	var keys []merge.Conflict
	if u.state, keys, err = merge.States(base.state, states...); err != nil {
		return union{}, err
	}
	if u.tree, err = merge.Trees(ctx, src, base.tree.Tree, trees...); err != nil {
		return union{}, err
	}
	u.conflicts = append(u.tree.Conflicts, keys...)
	return u, nil
}

// newest returns those of several checkpoints that no other of them comes from: beside
// one, what it came from is no change of its own. Of two the older is their base, which
// says the same.
func (s *Store) newest(ctx context.Context, tenant uuid.UUID, of []postgres.Parent) ([]postgres.Parent, error) {
	if len(of) < 3 {
		return of, nil
	}
	ids, err := s.db.NewestCheckpoints(ctx, tenant, idsOf(of))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(of), func(p postgres.Parent) bool { return !slices.Contains(ids, p.ID) }), nil
}

// bases returns the nearest checkpoints that several ones come from.
func (s *Store) bases(ctx context.Context, tenant uuid.UUID, of []postgres.Parent) ([]postgres.Parent, error) {
	if len(of) < 2 {
		return nil, nil
	}
	return s.db.CommonAncestors(ctx, tenant, idsOf(of))
}

func idsOf(checkpoints []postgres.Parent) []uuid.UUID {
	ids := make([]uuid.UUID, len(checkpoints))
	for i, p := range checkpoints {
		ids[i] = p.ID
	}
	return ids
}

// content returns the state document and the tree of a checkpoint.
func (m *Maker) content(ctx context.Context, p postgres.Parent) (doc []byte, root tree.Digest, err error) {
	if p.State != nil {
		return p.State, p.TreeDigest, nil
	}
	if doc, err = m.Read(ctx, m.TenantID, p.StateDigest); err != nil {
		return nil, root, fmt.Errorf("state of checkpoint %s: %w", p.ID, err)
	}
	return doc, p.TreeDigest, nil
}
