package step

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/tree"
)

// corrupt has the run told by an event when err, which keeps the attempt from
// beginning, is that storage has lost bytes: which checkpoint lacks them, and the
// nearest one before it that does not. It returns err.
func (a *attempt) corrupt(ctx context.Context, err error) error {
	if _, lost := blob.Lost(err); !lost {
		return err
	}
	e, _ := errors.AsType[*fault.Error](err)
	for _, id := range a.lacking(ctx) {
		ancestor, findErr := a.intactAncestor(ctx, id)
		if findErr != nil {
			a.log.WarnContext(ctx, "no ancestor of a corrupt checkpoint", "error", findErr)
		}
		if recordErr := a.db.RecordCorrupt(ctx, a.claim, id, e.Code, ancestor); recordErr != nil {
			return recordErr
		}
	}
	return err
}

// lacking are the checkpoints whose bytes are lost: that which the attempt starts from
// or, before there is one, those of its parents that are not whole.
func (a *attempt) lacking(ctx context.Context) []uuid.UUID {
	if a.start.checkpoint != nil {
		return []uuid.UUID{a.start.checkpoint.ID}
	}
	var ids []uuid.UUID
	for _, p := range a.claim.Parents {
		if !a.isIntact(ctx, p.TreeDigest) {
			ids = append(ids, p.ID)
		}
	}
	if ids == nil { // not a tree then, but a state document
		for _, p := range a.claim.Parents {
			if p.State == nil {
				ids = append(ids, p.ID)
			}
		}
	}
	return ids
}

// intactAncestor returns the nearest ancestor whose tree is whole, or nil.
func (a *attempt) intactAncestor(ctx context.Context, id uuid.UUID) (*uuid.UUID, error) {
	list, err := a.db.Ancestors(ctx, a.claim.TenantID, id)
	if err != nil {
		return nil, err
	}
	known := map[tree.Digest]bool{}
	for _, c := range list {
		if _, looked := known[c.TreeDigest]; !looked {
			known[c.TreeDigest] = a.isIntact(ctx, c.TreeDigest)
		}
		if known[c.TreeDigest] {
			return &c.ID, nil
		}
	}
	return nil, nil
}

// isIntact reports whether all of a tree is stored, as far as is known: its
// directories are read, its files are not.
func (a *attempt) isIntact(ctx context.Context, root tree.Digest) bool {
	all := []tree.Digest{root}
	err := a.source.Tree(a.claim.TenantID, root).Walk(ctx, "", "", func(_ string, e tree.Entry) error {
		all = append(all, e.Digest)
		return nil
	})
	if err != nil {
		return false
	}
	known, err := a.db.KnownBlobs(ctx, a.claim.TenantID, all)
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
