// Package checkpoint makes the checkpoints of runs: what an attempt at a step starts
// from, and what it leaves.
//
// A [Maker] makes them for one [Author], an attempt or a step of a system run. The
// checkpoint that a step starts from comes of those of its dependencies: [Maker.Pre]
// makes it where that takes no storage, [Maker.Join] where trees or states have to be
// merged, [Maker.Edit] that of a branch's edits, and [Maker.Merge] merges two runs.
// [Maker.Save] makes one of a workspace, [Maker.SameTree] one that leaves the
// files as they were, and [Maker.Make] one of any state and tree. All of them store the
// bytes first and return the row, which the caller's transaction inserts: a crash before
// it leaves objects without a row, and never a row without its objects.
//
// The documents of a checkpoint are its [Manifest] and its [State]; what the tree holds
// is package snapshot's. Where storage has lost bytes, [Store.Damaged] says of which
// checkpoints. Start reading here, then join.go.
package checkpoint

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/snapshot"
)

func tracer() trace.Tracer { return otel.Tracer("nofx.dev/worker/internal/checkpoint") }

// Config is what a Store works with.
type Config struct {
	DB      *postgres.DB
	Blobs   *blob.Store
	Metrics *telemetry.Metrics
	Version string // of the worker; on checkpoints
}

// Store keeps checkpoints. It is safe for concurrent use.
type Store struct {
	db        *postgres.DB
	snapshots *snapshot.Store
	source    *tree.Source
	nodes     *nodes
	metrics   *telemetry.Metrics
	version   string
}

// New makes a Store.
func New(cfg Config) *Store {
	snapshots := snapshot.New(snapshot.Config{Blobs: cfg.Blobs, Index: cfg.DB})
	return &Store{
		db: cfg.DB, metrics: cfg.Metrics, version: cfg.Version, snapshots: snapshots,
		source: &tree.Source{Blobs: cfg.Blobs, Locator: cfg.DB},
		nodes:  &nodes{read: snapshots.Nodes, most: keptEntries},
	}
}

// Snapshots returns the store of the trees of checkpoints.
func (s *Store) Snapshots() *snapshot.Store { return s.snapshots }

// Read returns a stored content as a whole.
func (s *Store) Read(ctx context.Context, tenant uuid.UUID, d tree.Digest) ([]byte, error) {
	r, err := s.source.Open(ctx, tenant, d)
	if err != nil {
		return nil, fmt.Errorf("content %s: %w", d, err)
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Author is who makes checkpoints, and of which run.
type Author struct {
	TenantID   uuid.UUID
	RunID      uuid.UUID
	PlanDigest string
	Step       string   // "" where no step of the run made it
	Fence      int64    // of the step
	Excludes   []string // what of a workspace is not kept

	// Fresh returns once the author may upload, or the error that it may no more. Nil:
	// it always may.
	Fresh func(context.Context) error
}

// Maker makes the checkpoints of one author.
type Maker struct {
	*Store
	Author
}

// For returns the Maker of an author.
func (s *Store) For(a Author) *Maker { return &Maker{Store: s, Author: a} }

// Content is what makes one checkpoint differ from another of the same author.
type Content struct {
	Kind    run.CheckpointKind
	Parents []postgres.Parent
	State   State
	Tree    tree.Digest
	Gate    *GateRef       // whose verdict it belongs to, if one's
	Edit    *EditRef       // that led to it, if one did
	Saved   snapshot.Saved // what was uploaded for the tree
}

// Make makes the checkpoint of c, after the upload of what its row does not hold.
func (m *Maker) Make(ctx context.Context, c Content) (*postgres.Checkpoint, error) {
	ck, contents, err := m.row(ctx, c)
	if err != nil || contents == nil {
		return ck, err
	}
	if err := m.fresh(ctx); err != nil {
		return nil, err
	}
	docs, err := m.snapshots.Workspace(m.TenantID, "").Save(ctx, nil, contents...)
	if err != nil {
		return nil, err
	}
	addRows(ck, docs)
	return ck, nil
}

// SameTree makes a checkpoint that leaves the workspace as the step found it.
func (m *Maker) SameTree(ctx context.Context, from *Start, kind run.CheckpointKind, st State, gate *GateRef) (*postgres.Checkpoint, error) {
	return m.Make(ctx, Content{Kind: kind, Parents: from.parents(), State: st, Tree: from.Tree, Gate: gate})
}

// Save stores what is in a workspace that was restored from a start, and makes the
// checkpoint of it. What is kept of the workspace is in the scan.
func (m *Maker) Save(ctx context.Context, from *Start, kind run.CheckpointKind, st State, w *snapshot.Workspace) (*postgres.Checkpoint, *snapshot.Scan, error) {
	ctx, span := tracer().Start(ctx, "checkpoint.save", trace.WithAttributes(telemetry.CheckpointKindKey.String(string(kind))))
	defer span.End()
	began := time.Now()
	scan, err := w.Scan(ctx, m.Excludes)
	if err != nil {
		return nil, nil, err
	}
	if err := m.fresh(ctx); err != nil {
		return nil, nil, err
	}
	saved, err := w.Save(ctx, scan)
	if err != nil {
		return nil, nil, err
	}
	ck, err := m.Make(ctx, Content{Kind: kind, Parents: from.parents(), State: st, Tree: scan.Tree, Saved: saved})
	if err != nil {
		return nil, nil, err
	}
	m.metrics.CheckpointWrite.Observe(ctx, time.Since(began).Seconds(), string(kind))
	m.metrics.CheckpointBytes.Observe(ctx, float64(ck.BytesNew), string(kind))
	return ck, scan, nil
}

func (m *Maker) fresh(ctx context.Context) error {
	if m.Fresh == nil {
		return nil
	}
	return m.Fresh(ctx)
}

// row returns the row of c, and the contents that it names and does not hold.
func (m *Maker) row(ctx context.Context, c Content) (*postgres.Checkpoint, [][]byte, error) {
	doc, err := c.State.Encode()
	if err != nil {
		return nil, nil, err
	}
	ck := &postgres.Checkpoint{
		ID: run.NewID(), Kind: c.Kind, Generation: 1, StateDigest: doc.Ref.Digest, State: doc.Inline, TreeDigest: c.Tree,
	}
	manifest := Manifest{
		Kind: string(c.Kind), Tenant: run.TenantID.Format(m.TenantID), Run: run.RunID.Format(m.RunID),
		Step: m.Step, Fence: m.Fence, State: doc.Ref, Tree: c.Tree, Excludes: m.Excludes, Gate: c.Gate, Edit: c.Edit,
		Code: Code{Worker: m.version, Plan: m.PlanDigest}, Created: time.Now(),
	}
	manifest.Trace.TraceID, manifest.Trace.SpanID = telemetry.IDs(ctx)
	for _, p := range c.Parents {
		manifest.Parents = append(manifest.Parents, p.Digest)
		ck.Parents = append(ck.Parents, p.ID)
		ck.Generation = max(ck.Generation, p.Generation+1)
	}
	raw, digest, err := manifest.Encode()
	if err != nil {
		return nil, nil, err
	}
	ck.Manifest, ck.Digest = raw, digest
	addRows(ck, c.Saved)
	return ck, doc.Contents, nil
}

// addRows adds to a checkpoint the rows of what was uploaded for it.
func addRows(ck *postgres.Checkpoint, s snapshot.Saved) {
	ck.BytesNew += s.Bytes
	ck.Blobs = append(ck.Blobs, s.Blobs...)
	ck.Objects = append(ck.Objects, s.Objects...)
}
