package checkpoint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
	"nofx.dev/worker/internal/snapshot"
)

// Merging is what one run changed since a checkpoint that it shares with another, and the
// other run. The leaves of a run are the checkpoints that no other of it descends from.
type Merging struct {
	Base         postgres.Parent
	Ours, Theirs []postgres.Parent // leaves
	Rules        merge.Rules       // with a decision about each conflict
}

// Merged is a merge of two runs.
type Merged struct {
	Conflicts []merge.Conflict // with what was decided there
	Changes   []merge.Change   // of the files of ours
	State     bool             // the state is another than that of ours

	merging          Merging
	join             *joining
	ours, theirs, to union
}

// Merge merges two runs by rules that decide all conflicts. Leaves of one run that do not
// fit together are fault.Conflict (workspace-conflict), more than 10,000 conflicts
// too-many-conflicts.
func (m *Maker) Merge(ctx context.Context, in Merging) (*Merged, error) {
	r := &Merged{merging: in, join: m.joining()}
	var err error
	if r.ours, err = r.join.leaves(ctx, "target", in.Ours); err != nil {
		return nil, err
	}
	if r.theirs, err = r.join.leaves(ctx, "source", in.Theirs); err != nil {
		return nil, err
	}
	state, root, err := m.content(ctx, in.Base)
	if err != nil {
		return nil, err
	}
	var keys, paths []merge.Conflict
	if r.to.tree, paths, err = r.join.trees.MergeBy(ctx, in.Rules, root, r.ours.tree, r.theirs.tree); err != nil {
		return nil, err
	}
	if r.to.state, keys, err = merge.StatesBy(in.Rules, state, r.ours.state, r.theirs.state); err != nil {
		return nil, err
	}
	if r.Conflicts = append(paths, keys...); len(r.Conflicts) > merge.MaxConflicts {
		return nil, merge.TooMany("paths and keys")
	}
	if r.to.state == nil {
		return nil, fmt.Errorf("merge of checkpoint %s: the rules leave conflicts open", in.Base.ID)
	}
	r.State = string(r.to.state) != string(r.ours.state)
	r.Changes, err = r.join.trees.Changes(ctx, r.ours.tree, r.to.tree)
	return r, err
}

// leaves returns what the leaves of a run come to together.
func (j *joining) leaves(ctx context.Context, which string, list []postgres.Parent) (union, error) {
	u, err := j.unite(ctx, list)
	if err != nil || len(u.conflicts) == 0 {
		return u, err
	}
	var places []string
	for _, c := range u.conflicts[:min(len(u.conflicts), 3)] {
		places = append(places, c.At())
	}
	return u, fault.New(fault.Conflict, "workspace-conflict", "parallel steps of the %s left checkpoints that do not fit together (%s)", which, strings.Join(places, ", "))
}

// Store stores what the merge has made and returns its checkpoints: those that join several
// leaves of one run, and at the end the merge's own, which has two parents. extra is what
// was stored for it besides.
func (r *Merged) Store(ctx context.Context, m *Maker, extra snapshot.Saved) ([]*postgres.Checkpoint, error) {
	var list []*postgres.Checkpoint
	var parents []postgres.Parent
	for _, side := range []struct {
		leaves []postgres.Parent
		union  union
	}{{r.merging.Ours, r.ours}, {r.merging.Theirs, r.theirs}} {
		if len(side.leaves) == 1 {
			parents = append(parents, side.leaves[0])
			continue
		}
		ck, err := r.make(ctx, m, run.ManualCheckpoint, side.leaves, side.union, snapshot.Saved{})
		if err != nil {
			return nil, err
		}
		list = append(list, ck)
		parents = append(parents, postgres.Parent{ID: ck.ID, Digest: ck.Digest, Generation: ck.Generation})
	}
	ck, err := r.make(ctx, m, run.MergeCheckpoint, parents, r.to, extra)
	return append(list, ck), err
}

func (r *Merged) make(ctx context.Context, m *Maker, kind run.CheckpointKind, parents []postgres.Parent, u union, extra snapshot.Saved) (*postgres.Checkpoint, error) {
	state, err := DecodeState(u.state)
	if err != nil {
		return nil, err
	}
	saved, err := m.snapshots.SaveContents(ctx, m.TenantID, r.join.trees.Made(u.tree))
	if err != nil {
		return nil, err
	}
	saved.Blobs, saved.Objects = append(saved.Blobs, extra.Blobs...), append(saved.Objects, extra.Objects...)
	return m.Make(ctx, Content{Kind: kind, Parents: parents, State: state, Tree: u.tree, Saved: saved})
}

// joining returns a join that reads and makes what this Maker stores.
func (m *Maker) joining() *joining {
	return &joining{Maker: m, trees: merge.NewTrees(merge.Source{
		Nodes: func(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
			return m.nodes.get(ctx, m.TenantID, digests)
		},
		Files: m.readFiles,
	}), unions: map[string]union{}}
}

// readFiles returns contents, each as a whole, without those that were purged.
func (m *Maker) readFiles(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
	files, err := m.snapshots.Files(ctx, m.TenantID, digests)
	if !blob.IsPurged(err) {
		return files, err
	}
	purged, err := m.db.PurgedBlobs(ctx, m.TenantID, digests)
	if err != nil {
		return nil, err
	}
	rest := slices.DeleteFunc(slices.Clone(digests), func(d tree.Digest) bool { return purged[d] })
	return m.snapshots.Files(ctx, m.TenantID, rest)
}
