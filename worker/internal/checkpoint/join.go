package checkpoint

import (
	"context"
	"fmt"
	"time"

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
	began := time.Now()
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
	m.metrics.CheckpointWrite.Observe(ctx, time.Since(began).Seconds(), string(run.PreCheckpoint))
	return start, nil
}

// Join makes a checkpoint of what several others come to together, such as the pre
// checkpoint of a step whose dependencies left different trees or states, or states too
// large for their rows. Conflicts mean that they do not fit together; then there is no
// start. Its row is the caller's to insert.
func (m *Maker) Join(ctx context.Context, kind run.CheckpointKind, parents []postgres.Parent) (*Start, []merge.Conflict, error) {
	began := time.Now()
	j := m.joining()
	u, err := j.unite(ctx, parents)
	if err != nil {
		return nil, nil, fmt.Errorf("join %d checkpoints: %w", len(parents), err)
	}
	if len(u.conflicts) > 0 {
		return nil, u.conflicts, nil
	}
	start := &Start{Tree: u.tree}
	if start.State, err = DecodeState(u.state); err != nil {
		return nil, nil, err
	}
	saved, err := m.snapshots.SaveContents(ctx, m.TenantID, j.trees.Made(u.tree))
	if err != nil {
		return nil, nil, err
	}
	start.Checkpoint, err = m.Make(ctx, Content{Kind: kind, Parents: parents, State: start.State, Tree: start.Tree, Saved: saved})
	if err != nil {
		return nil, nil, err
	}
	m.metrics.CheckpointWrite.Observe(ctx, time.Since(began).Seconds(), string(kind))
	return start, nil, nil
}

// union is what several checkpoints come to together. With conflicts it is nothing.
type union struct {
	state     []byte
	tree      tree.Digest
	conflicts []merge.Conflict
}

// joining is one join on its way.
type joining struct {
	*Maker
	trees  *merge.Trees
	unions map[string]union // by their checkpoints: the same ones may be the base more than once
}

// unite merges the states and the trees of checkpoints, one after the other. What one adds
// to those before it counts from the nearest checkpoint that it shares with any of them.
func (j *joining) unite(ctx context.Context, checkpoints []postgres.Parent) (u union, err error) {
	key := fmt.Sprint(idsOf(checkpoints))
	if known, ok := j.unions[key]; ok {
		return known, nil
	}
	if u.state, u.tree, err = j.content(ctx, checkpoints[0]); err != nil {
		return union{}, err
	}
	for i, p := range checkpoints[1:] {
		base, err := j.base(ctx, checkpoints[:i+1], p)
		if err != nil {
			return union{}, err
		}
		state, root, err := j.content(ctx, p)
		if err != nil {
			return union{}, err
		}
		var keys, paths []merge.Conflict
		if u.state, keys, err = merge.States(base.state, u.state, state); err != nil {
			return union{}, err
		}
		if u.tree, paths, err = j.trees.Merge(ctx, base.tree, u.tree, root); err != nil {
			return union{}, err
		}
		if u.conflicts = append(paths, keys...); len(u.conflicts) > 0 {
			break
		}
	}
	j.unions[key] = u
	return u, nil
}

// base returns what a checkpoint and the union of others come from: the nearest checkpoint
// that it shares with any of them. Where there are several nearest ones, what they left
// came together before: the base is what these come to together, and not one of them,
// since then all that the others left would look like a change of both sides. Where they
// do not fit together, the first of them is the base.
func (j *joining) base(ctx context.Context, others []postgres.Parent, p postgres.Parent) (union, error) {
	shared, err := j.db.SharedAncestors(ctx, j.TenantID, idsOf(others), p.ID)
	if err != nil || len(shared) == 0 {
		return union{tree: tree.Empty}, err
	}
	u, err := j.unite(ctx, shared)
	if err != nil || len(u.conflicts) == 0 {
		return u, err
	}
	return j.unite(ctx, shared[:1])
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
