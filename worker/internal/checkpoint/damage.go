package checkpoint

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/tree"
)

// Damage is a checkpoint whose bytes storage has lost, or some of them.
type Damage struct {
	Checkpoint uuid.UUID
	Ancestor   *uuid.UUID // the nearest one whose tree is whole; nil: there is none
}

// Damaged returns those of several checkpoints, and of the ones that a join of them takes
// as bases, which lack bytes in storage as far as is known. The error is that some could
// not be looked at, or no base looked for; what was found is returned beside it.
func (s *Store) Damaged(ctx context.Context, tenant uuid.UUID, checkpoints []postgres.Parent) ([]Damage, error) {
	looked := map[uuid.UUID]bool{}
	var list []Damage
	var failed error
	look := func(p postgres.Parent) {
		if looked[p.ID] || s.isIntact(ctx, tenant, p) {
			return
		}
		looked[p.ID] = true
		d, err := s.DamageOf(ctx, tenant, p.ID)
		list, failed = append(list, d), errors.Join(failed, err)
	}
	for i, p := range checkpoints {
		look(p)
		if i == 0 {
			continue
		}
		bases, err := s.db.SharedAncestors(ctx, tenant, idsOf(checkpoints[:i]), p.ID)
		failed = errors.Join(failed, err)
		for _, base := range bases {
			look(base)
		}
	}
	return list, failed
}

// DamageOf returns the damage of a checkpoint that is known to lack bytes.
func (s *Store) DamageOf(ctx context.Context, tenant, checkpoint uuid.UUID) (Damage, error) {
	d := Damage{Checkpoint: checkpoint}
	list, err := s.db.Ancestors(ctx, tenant, checkpoint)
	if err != nil {
		return d, err
	}
	known := map[tree.Digest]bool{}
	for _, c := range list {
		if _, looked := known[c.TreeDigest]; !looked {
			known[c.TreeDigest] = s.hasTree(ctx, tenant, c.TreeDigest)
		}
		if known[c.TreeDigest] {
			d.Ancestor = &c.ID
			return d, nil
		}
	}
	return d, nil
}

// isIntact reports whether all of a checkpoint's tree and its state are stored, as far
// as is known.
func (s *Store) isIntact(ctx context.Context, tenant uuid.UUID, p postgres.Parent) bool {
	if p.State != nil {
		return s.hasTree(ctx, tenant, p.TreeDigest)
	}
	return s.hasTree(ctx, tenant, p.TreeDigest, p.StateDigest)
}

// hasTree reports whether all of a tree, and of other content, is stored, as far as is
// known: the tree's directories are read, its files are not.
func (s *Store) hasTree(ctx context.Context, tenant uuid.UUID, root tree.Digest, others ...tree.Digest) bool {
	all := append(others, root)
	err := s.source.Tree(tenant, root).Walk(ctx, "", "", func(_ string, e tree.Entry) error {
		all = append(all, e.Digest)
		return nil
	})
	if err != nil {
		return false
	}
	known, err := s.db.LiveBlobs(ctx, tenant, all)
	if err != nil {
		return false
	}
	for _, d := range all {
		if tree.NeedsObject(d) && !known[d] {
			return false
		}
	}
	return true
}
