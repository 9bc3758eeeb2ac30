package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/gowebpki/jcs"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
	"nofx.dev/worker/internal/snapshot"
)

// start is where an attempt begins: its pre checkpoint.
type start struct {
	ready      bool // recorded with the claim; else join makes it
	checkpoint *postgres.Checkpoint
	state      snapshot.State
	tree       tree.Digest
}

// content is what makes one checkpoint differ from another of the same attempt.
type content struct {
	kind    run.CheckpointKind
	parents []postgres.Parent
	state   snapshot.State
	tree    tree.Digest
	gate    *postgres.NewGate
	saved   snapshot.Saved
}

// begin makes the pre checkpoint of a step whose dependencies all left the same
// tree, and states that need no base to be merged, which takes neither storage nor the
// database: it is called inside the claim's transaction. Otherwise it returns nil, and
// join does it.
func (a *attempt) begin(c *postgres.Claim, span trace.SpanContext) (*postgres.Checkpoint, error) {
	a.claim, a.start = c, start{tree: tree.Empty}
	docs := make([][]byte, len(c.Parents))
	for i, p := range c.Parents {
		if p.State == nil || p.TreeDigest != c.Parents[0].TreeDigest {
			return nil, nil
		}
		docs[i] = p.State
	}
	doc, ok, err := merge.Union(docs...)
	if err != nil || !ok {
		return nil, err
	}
	if a.start.state, err = decodeState(doc); err != nil {
		return nil, err
	}
	if len(c.Parents) > 0 {
		if a.start.tree, err = tree.ParseDigest(c.Parents[0].TreeDigest); err != nil {
			return nil, err
		}
	}
	ck, contents, err := a.checkpoint(trace.ContextWithSpanContext(context.Background(), span), content{kind: run.PreCheckpoint, parents: c.Parents, state: a.start.state, tree: a.start.tree})
	if err != nil || contents != nil {
		return nil, err
	}
	a.start.checkpoint, a.start.ready = ck, true
	return ck, nil
}

// join makes the pre checkpoint of a step whose dependencies left different trees or
// states, or states too large for their rows. Conflicts mean that they do not fit
// together.
func (a *attempt) join(ctx context.Context) ([]merge.Conflict, error) {
	parents := a.claim.Parents
	ids := make([]uuid.UUID, len(parents))
	docs := make([][]byte, len(parents))
	trees := make([]tree.Digest, len(parents))
	for i, p := range parents {
		ids[i] = p.ID
		var err error
		if docs[i], err = a.stateDocument(ctx, p); err != nil {
			return nil, err
		}
		if trees[i], err = tree.ParseDigest(p.TreeDigest); err != nil {
			return nil, err
		}
	}
	baseDoc, baseTree, err := a.base(ctx, ids)
	if err != nil {
		return nil, err
	}
	doc, conflicts, err := merge.States(baseDoc, docs...)
	if err != nil {
		return nil, err
	}
	joined, err := a.snapshots.Join(ctx, a.claim.TenantID, baseTree, trees...)
	if err != nil {
		return nil, err
	}
	if conflicts = append(joined.Conflicts, conflicts...); len(conflicts) > 0 {
		return conflicts, nil
	}
	if a.start.state, err = decodeState(doc); err != nil {
		return nil, err
	}
	a.start.tree = joined.Tree
	ck, err := a.store(ctx, content{kind: run.PreCheckpoint, parents: parents, state: a.start.state, tree: joined.Tree, saved: joined.Saved})
	if err != nil {
		return nil, err
	}
	if err := a.db.RecordCheckpoint(ctx, a.claim, ck); err != nil {
		return nil, err
	}
	a.start.checkpoint, a.start.ready = ck, true
	return nil, nil
}

// base returns the state and the tree of the nearest checkpoint that all of the given
// ones come from, or no state and the empty tree.
func (a *attempt) base(ctx context.Context, of []uuid.UUID) ([]byte, tree.Digest, error) {
	common, err := a.db.CommonAncestor(ctx, a.claim.TenantID, of)
	if err != nil || common == nil {
		return nil, tree.Empty, err
	}
	doc, err := a.stateDocument(ctx, *common)
	if err != nil {
		return nil, tree.Digest{}, err
	}
	d, err := tree.ParseDigest(common.TreeDigest)
	return doc, d, err
}

func (a *attempt) stateDocument(ctx context.Context, p postgres.Parent) ([]byte, error) {
	if p.State != nil {
		return p.State, nil
	}
	d, err := tree.ParseDigest(p.StateDigest)
	if err != nil {
		return nil, err
	}
	doc, err := a.read(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("state of checkpoint %s: %w", p.ID, err)
	}
	return doc, nil
}

// sameTree is a checkpoint that leaves the workspace as the step found it.
func (a *attempt) sameTree(ctx context.Context, kind run.CheckpointKind, st snapshot.State, g *postgres.NewGate) (*postgres.Checkpoint, error) {
	return a.store(ctx, content{kind: kind, parents: a.asParent(), state: st, tree: a.start.tree, gate: g})
}

// save stores what is in the workspace and returns its checkpoint.
func (a *attempt) save(ctx context.Context, kind run.CheckpointKind, st snapshot.State) (*postgres.Checkpoint, error) {
	ctx, span := tracer().Start(ctx, "checkpoint.save", trace.WithAttributes(telemetry.CheckpointKindKey.String(string(kind))))
	defer span.End()
	began := time.Now()
	scan, err := a.space.Scan(ctx, a.claim.Spec.Excludes)
	if err != nil {
		return nil, err
	}
	if err := a.keeper.fresh(ctx, a.claim); err != nil {
		return nil, err
	}
	saved, err := a.space.Save(ctx, scan)
	if err != nil {
		return nil, err
	}
	ck, err := a.store(ctx, content{kind: kind, parents: a.asParent(), state: st, tree: scan.Tree, saved: saved})
	if err == nil {
		a.saved = scan
		a.metrics.CheckpointWrite.Observe(ctx, time.Since(began).Seconds(), string(kind))
		a.metrics.CheckpointBytes.Observe(ctx, float64(ck.BytesNew), string(kind))
	}
	return ck, err
}

// store is the checkpoint of c, after the upload of what its row does not hold.
func (a *attempt) store(ctx context.Context, c content) (*postgres.Checkpoint, error) {
	ck, contents, err := a.checkpoint(ctx, c)
	if err != nil || contents == nil {
		return ck, err
	}
	if err := a.keeper.fresh(ctx, a.claim); err != nil {
		return nil, err
	}
	docs, err := a.snapshots.Workspace(a.claim.TenantID, "").Save(ctx, nil, contents...)
	if err != nil {
		return nil, err
	}
	addRows(ck, docs)
	return ck, nil
}

// checkpoint is the row of c, and the contents that it names and does not hold.
func (a *attempt) checkpoint(ctx context.Context, c content) (*postgres.Checkpoint, [][]byte, error) {
	doc, err := c.state.Encode()
	if err != nil {
		return nil, nil, err
	}
	ck := &postgres.Checkpoint{
		ID: run.NewID(), Kind: c.kind, Generation: 1, StateDigest: doc.Ref.Digest.String(), State: doc.Inline, TreeDigest: c.tree.String(),
	}
	m := snapshot.Manifest{
		Kind: string(c.kind), Tenant: run.TenantID.Format(a.claim.TenantID), Run: run.RunID.Format(a.claim.RunID),
		Step: a.claim.Name, Fence: a.claim.Fence, State: doc.Ref, Tree: c.tree, Excludes: a.claim.Spec.Excludes,
		Code: snapshot.Code{Worker: a.version, Plan: a.claim.PlanDigest}, Created: time.Now(),
	}
	m.Trace.TraceID, m.Trace.SpanID = telemetry.IDs(ctx)
	if c.gate != nil {
		m.Gate = &snapshot.GateRef{ID: run.GateID.Format(c.gate.ID), Verdict: string(run.Pending)}
		if v, ok := verdicts[c.gate.Event]; ok {
			m.Gate.Verdict = string(v)
		}
	}
	for _, p := range c.parents {
		d, err := tree.ParseDigest(p.Digest)
		if err != nil {
			return nil, nil, err
		}
		m.Parents = append(m.Parents, d)
		ck.Parents = append(ck.Parents, p.ID)
		ck.Generation = max(ck.Generation, p.Generation+1)
	}
	manifest, digest, err := m.Encode()
	if err != nil {
		return nil, nil, err
	}
	ck.Manifest, ck.Digest = manifest, digest.String()
	addRows(ck, c.saved)
	return ck, doc.Contents, nil
}

// addRows has the rows of what was uploaded inserted with the checkpoint.
func addRows(ck *postgres.Checkpoint, s snapshot.Saved) {
	ck.BytesNew += s.Bytes
	for _, b := range s.Blobs {
		ck.Blobs = append(ck.Blobs, postgres.Blob{SHA256: b.SHA256, Size: b.Size, Pack: (*[32]byte)(b.Pack), Off: b.Off, Len: b.Len})
	}
	for _, o := range s.Objects {
		ck.Objects = append(ck.Objects, postgres.Object{Key: o.Key, SHA256: o.SHA256, Bytes: o.Bytes, Kind: o.Kind})
	}
}

// asParent is the pre checkpoint as the parent of what the attempt writes.
func (a *attempt) asParent() []postgres.Parent {
	ck := a.start.checkpoint
	return []postgres.Parent{{ID: ck.ID, Digest: ck.Digest, Generation: ck.Generation}}
}

// inputDigest is what a gate's decision binds to: its tool, its inputs and the
// tree that it sees.
func (a *attempt) inputDigest() (string, error) {
	raw, err := json.Marshal(map[string]any{"tool": a.claim.Tool, "inputs": a.claim.Spec.Inputs, "tree": a.start.tree})
	if err != nil {
		return "", fault.New(fault.Invalid, "invalid-plan", "inputs as JSON").Because(err)
	}
	if raw, err = jcs.Transform(raw); err != nil {
		return "", fault.New(fault.Invalid, "invalid-plan", "inputs in canonical form").Because(err)
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
