package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// What a worker does, by the store's own methods and real objects.

// create makes a run by the API.
func (g *gateway) create(body string) api.CreatedRun {
	g.Helper()
	r := g.do(http.MethodPost, "/api/runs", body)
	if r.status != http.StatusCreated {
		g.Fatalf("create = %d %s, want 201", r.status, r.body)
	}
	return decodeAs[api.CreatedRun](g, r)
}

func uuidOf[T ~string](g *gateway, noun run.Prefix, id T) uuid.UUID {
	g.Helper()
	u, err := noun.Parse(string(id))
	if err != nil {
		g.Fatal(err)
	}
	return u
}

// claim takes a ready step as a worker does.
func (g *gateway) claim(step api.Step) *postgres.Claim {
	g.Helper()
	ctx, span := otel.Tracer("test").Start(g.Context(), "step")
	defer span.End()
	j := job.Step{TenantID: g.tenant, StepID: uuidOf(g, run.StepID, step.ID)}
	if err := g.pg.Admin.QueryRow(ctx, "SELECT wake_seq FROM nofx.step WHERE id = $1", j.StepID).Scan(&j.WakeSeq); err != nil {
		g.Fatal(err)
	}
	c, err := pgtest.Claim(ctx, g.db, postgres.Wake{
		Job: j, Span: span.SpanContext(), Pre: func(*postgres.Claim, trace.SpanContext) (*postgres.Checkpoint, error) { return nil, nil },
	}, postgres.Worker{ID: "w1", PID: 7}, time.Minute)
	if err != nil || c == nil {
		g.Fatalf("Claim(%s) = %v, %v", step.Name, c, err)
	}
	return c
}

func (g *gateway) finish(f postgres.Finish) {
	g.Helper()
	if _, err := pgtest.FinishStep(postgres.WithActor(g.Context(), "worker:w1"), g.db, f, postgres.Worker{ID: "w1", PID: 7}, time.Minute); err != nil {
		g.Fatal(err)
	}
}

// verify does the step of a run of sys:verify: it keeps the artifact's bytes, unless it
// is to fail.
func (g *gateway) verify(runID string, failure run.FailureClass) {
	g.Helper()
	d := decodeAs[api.RunDetail](g, g.get("/api/runs/"+runID))
	if len(d.Steps) != 1 || d.Steps[0].Tool != run.ToolVerify || d.Run.Kind != api.RunKindSystem {
		g.Fatalf("run %s = %s with %d steps, want a system run of one step of %s", runID, d.Run.Kind, len(d.Steps), run.ToolVerify)
	}
	c := g.claim(d.Steps[0])
	f := postgres.Finish{Claim: c, Outcome: "succeed"}
	if failure != "" {
		f.Outcome, f.FailureClass, f.Reason = "fail", failure, "it is to fail"
		g.finish(f)
		return
	}
	in, err := run.Inputs[run.VerifyInputs](c.Spec.Inputs)
	if err != nil {
		g.Fatal(err)
	}
	a, err := g.db.Upload(g.Context(), c.TenantID, uuidOf(g, run.ArtifactID, in.ArtifactID))
	if err != nil {
		g.Fatal(err)
	}
	r, etag, err := g.blobs.OpenTagged(g.Context(), a.Key)
	if err != nil {
		g.Fatal(err)
	}
	defer r.Close()
	if in.ETag != etag {
		g.Errorf("the run verifies content %q, want %q, which was put", in.ETag, etag)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		g.Fatal(err)
	}
	key := blob.BlobKey(c.TenantID, [32]byte(a.SHA256))
	g.put(key, content)
	if err := g.db.CompleteUpload(g.Context(), c, a.ID, key); err != nil {
		g.Fatal(err)
	}
	g.finish(f)
}

// log stores one chunk of an attempt's log.
func (g *gateway) log(c *postgres.Claim, n int, start int64, text string) postgres.LogChunk {
	g.Helper()
	sum := sha256.Sum256([]byte(text))
	chunk := postgres.LogChunk{N: n, Start: start, Bytes: int64(len(text)), Lines: 1, SHA256: sum[:],
		Key: blob.LogKey(c.TenantID, c.RunID, c.StepID, c.Fence, n)}
	g.put(chunk.Key, []byte(text))
	if err := g.db.RecordLogChunk(g.Context(), c, chunk); err != nil {
		g.Fatal(err)
	}
	return chunk
}

func (g *gateway) put(key string, content []byte) {
	g.Helper()
	if err := g.blobs.Put(g.Context(), key, bytes.NewReader(content), int64(len(content)), blob.PutOptions{}); err != nil {
		g.Fatal(err)
	}
}

// checkpoint stores a workspace and makes the checkpoint of it: the directories and
// small files in a pack, the large ones each in an object.
func (g *gateway) checkpoint(c *postgres.Claim, kind run.CheckpointKind, root tree.Digest, contents ...[]byte) *postgres.Checkpoint {
	g.Helper()
	ck := &postgres.Checkpoint{
		ID: run.NewID(), Kind: kind, Generation: 1, Digest: tree.Sum([]byte(kind)), Manifest: []byte(`{"v":1}`),
		StateDigest: tree.Sum([]byte("{}")), State: []byte("{}"), TreeDigest: root,
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		g.Fatal(err)
	}
	var pack []byte
	for _, content := range contents {
		d := tree.Sum(content)
		b := tree.Blob{SHA256: d, Location: tree.Location{Size: int64(len(content)), Len: int64(len(content))}}
		if len(content) >= tree.Small {
			key := blob.BlobKey(c.TenantID, d)
			g.put(key, content)
			ck.Objects = append(ck.Objects, tree.Object{Key: key, SHA256: d, Bytes: b.Size, Kind: "blob"})
		} else {
			frame := enc.EncodeAll(content, nil)
			b.Off, b.Len, b.Pack = int64(len(pack)), int64(len(frame)), new(tree.Digest)
			pack = append(pack, frame...)
		}
		ck.Blobs = append(ck.Blobs, b)
	}
	sum := tree.Sum(pack)
	for i := range ck.Blobs {
		if ck.Blobs[i].Pack != nil {
			ck.Blobs[i].Pack = &sum
		}
	}
	key := blob.PackKey(c.TenantID, sum)
	g.put(key, pack)
	ck.Objects = append(ck.Objects, tree.Object{Key: key, SHA256: sum, Bytes: int64(len(pack)), Kind: "pack"})
	return ck
}

// artifact stores bytes and describes them.
func (g *gateway) artifact(c *postgres.Claim, name, content string) run.Artifact {
	g.Helper()
	sum := sha256.Sum256([]byte(content))
	a := run.Artifact{ID: run.NewID(), Name: name, Key: blob.BlobKey(c.TenantID, sum), MediaType: "text/plain", Size: int64(len(content)), SHA256: sum[:]}
	g.put(a.Key, []byte(content))
	return a
}

// gate finishes the step as one that waits for a person.
func (g *gateway) gate(c *postgres.Claim) {
	g.Helper()
	g.gateWith(c, map[string]any{"a": 1}, 1)
}

func (g *gateway) gateWith(c *postgres.Claim, evidence map[string]any, quorum int) {
	g.Helper()
	ck := g.checkpoint(c, run.WaitCheckpoint, tree.Empty, []byte("x"))
	g.finish(postgres.Finish{
		Claim: c, Outcome: "wait", Reason: "approval", Checkpoints: []*postgres.Checkpoint{ck},
		Gate: &postgres.NewGate{ID: run.NewID(), Name: c.Name, Kind: run.ManualGate, Message: "Deploy?", InputDigest: tree.Sum(nil).String(),
			ShownCheckpoint: ck.ID, ShownDigest: ck.Digest, Evidence: evidence},
		Wait: &postgres.NewWait{Kind: "approval", After: time.Hour, Quorum: quorum},
	})
}

// fetch gets what a signed URL serves, and its SHA-256.
func (g *gateway) fetch(url string) (content []byte, sha string) {
	g.Helper()
	resp, err := http.Get(url) //nolint:noctx // a test's own storage
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		g.Fatalf("signed URL = %d, %v", resp.StatusCode, err)
	}
	sum := sha256.Sum256(b.Bytes())
	return b.Bytes(), hex.EncodeToString(sum[:])
}
