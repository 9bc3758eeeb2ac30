// Package content reads the trees, files and states of checkpoints, for diffs of them.
package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/diff"
)

// Reader reads what checkpoints of a tenant are made of.
type Reader struct {
	source *tree.Source
	db     *postgres.DB
	tenant uuid.UUID
}

// New returns a Reader.
func New(db *postgres.DB, blobs *blob.Store, tenant uuid.UUID) Reader {
	return Reader{&tree.Source{Blobs: blobs, Locator: db}, db, tenant}
}

// Source returns r as diffs read trees and files. Purged files have no content.
func (r Reader) Source() diff.Source { return diff.Source{Nodes: r.nodes, Files: r.files} }

// Checkpoint returns a side of a diff, and its run.
func (r Reader) Checkpoint(ctx context.Context, id uuid.UUID) (diff.Checkpoint, uuid.UUID, error) {
	p, runID, err := r.db.CheckpointContent(ctx, r.tenant, id)
	if err != nil {
		return diff.Checkpoint{}, runID, err
	}
	ck := diff.Checkpoint{ID: run.CheckpointID.Format(id), Digest: p.Digest.String(), State: p.State, Tree: p.TreeDigest}
	if ck.State == nil {
		all, err := r.read(ctx, []tree.Digest{p.StateDigest})
		if blob.IsPurged(err) {
			all, err = map[tree.Digest][]byte{p.StateDigest: []byte(`{"kind":"redacted"}`)}, nil
		}
		if err != nil {
			return ck, runID, fmt.Errorf("state of checkpoint %s: %w", id, err)
		}
		ck.State = all[p.StateDigest]
	}
	return ck, runID, nil
}

// Patch returns the changes from one tree to another as git shows them, with secrets.
func (r Reader) Patch(ctx context.Context, from, to tree.Digest) (*diff.Document, error) {
	return diff.Compute(ctx, r.Source(), diff.Checkpoint{State: []byte("{}"), Tree: from}, diff.Checkpoint{State: []byte("{}"), Tree: to}, diff.Options{})
}

// File returns a file of a tree, of at most limit bytes. One that is not there, is none, or
// was purged is fault.NotFound.
func (r Reader) File(ctx context.Context, root tree.Digest, path string, limit int64) ([]byte, error) {
	content, e, err := r.source.Tree(r.tenant, root).Open(ctx, path)
	if errors.Is(err, fault.Gone) {
		return nil, fault.New(fault.NotFound, "not-found", "%s was purged", path)
	} else if err != nil {
		return nil, err
	}
	defer content.Close()
	if e.Size > limit {
		return nil, fault.New(fault.Invalid, "too-large", "%s has %d bytes; at most %d", path, e.Size, limit)
	}
	return io.ReadAll(content)
}

func (r Reader) nodes(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
	return r.source.Nodes(ctx, r.tenant, digests)
}

// files returns the contents of files, without those that were purged.
func (r Reader) files(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
	all, err := r.read(ctx, digests)
	if !errors.Is(err, fault.Gone) {
		return all, err
	}
	purged, dbErr := r.db.PurgedBlobs(ctx, r.tenant, digests)
	if dbErr != nil || len(purged) == 0 {
		return nil, errors.Join(err, dbErr)
	}
	return r.read(ctx, slices.DeleteFunc(slices.Clone(digests), func(d tree.Digest) bool { return purged[d] }))
}

func (r Reader) read(ctx context.Context, digests []tree.Digest) (map[tree.Digest][]byte, error) {
	all := make(map[tree.Digest][]byte, len(digests))
	var mu sync.Mutex
	err := r.source.Each(ctx, r.tenant, digests, func(d tree.Digest, content io.Reader) error {
		b, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all[d] = b
		return nil
	})
	return all, err
}
