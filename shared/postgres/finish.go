package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// Finish is the result of one attempt.
type Finish struct {
	Claim        *Claim
	Span         trace.SpanContext // of the finish
	Outcome      string            // succeed, fail, retry, wait or interrupted
	Reason       string
	FailureClass run.FailureClass
	Delay        time.Duration // retry: until it is due
	ExitCode     *int
	Usage        run.Usage
	Outputs      json.RawMessage // an object, or nil
	Checkpoints  []*Checkpoint
	Artifacts    []run.Artifact // each in an object of its own
	Gate         *NewGate
	Wait         *NewWait
	Chain        *Chain // nil: successors are left to the queue
	Held         bool   // the run was held a moment ago
}

// Chain lets a finish claim a step that it makes ready: on Queue, for the same worker, in
// the same transaction.
type Chain struct {
	Queue string
	JobID int64             // the River job that continues with it
	Span  trace.SpanContext // of the attempt to come
	Pre   Pre
}

// Finished is the outcome of a Finish.
type Finished struct {
	// Err is fault.Fenced if the lease was lost, ErrHeld if another transaction holds the
	// run, and fault.Unavailable if the lease has expired and must be renewed first; then
	// nothing was written. An attempt that was recorded in the same way before is not an
	// error.
	Err   error
	Next  *Claim        // the step taken by Chain
	Ended run.State     // the run's, when this ended it
	After time.Duration // how long after its creation
}

// NewGate is a gate to open and, for a command gate, its verdict.
type NewGate struct {
	ID              uuid.UUID
	Name            string
	Kind            run.GateKind
	Message         string
	InputDigest     string
	ShownCheckpoint uuid.UUID
	ShownDigest     tree.Digest
	Evidence        map[string]any
	Event           string // pass, fail or error; "" leaves it pending
	Reason          string
}

// NewWait is the thing that a step waits for, and the end of the wait.
type NewWait struct {
	Kind   string // approval, timer or signal
	After  time.Duration
	Quorum int    // approval
	Key    string // signal
}

// FinishSteps records the results of attempts of one tenant in one transaction:
// checkpoints, artifacts, gates, states, events, successors and the jobs of those that no
// Chain took. Attempts whose run another transaction holds are left out. The results are in
// the order of list; an error means that nothing was recorded.
//
// The job of an attempt is not completed here: it was only a wake-up, and one
// that comes again finds that its step has moved on.
func (db *DB) FinishSteps(ctx context.Context, list []Finish, w Worker, ttl time.Duration) ([]Finished, error) {
	tenant := list[0].Claim.TenantID
	of := func(f Finish) maybeHeld { return maybeHeld{f.Claim.StepID, f.Held} }
	return txOfFree(ctx, db, tenant, list, of, Finished{Err: ErrHeld}, func(tx pgx.Tx, list []Finish) ([]Finished, error) {
		order := make([]int, len(list))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(a, b int) int {
			x, y := list[a].Claim, list[b].Claim
			return cmp.Or(bytes.Compare(x.RunID[:], y.RunID[:]), bytes.Compare(x.StepID[:], y.StepID[:]))
		})
		items := make([]map[string]any, len(list))
		for at, i := range order {
			items[at] = list[i].item()
		}
		doc, err := document(items)
		if err != nil {
			return nil, err
		}
		done := make([]Finished, len(list))
		rows, err := tx.Query(ctx, "SELECT ord, answer, run_state, run_seconds, enqueue, "+claimColumns+" FROM nofx.finish_steps($1, $2, $3, $4)", doc, w.ID, w.PID, ttl)
		if err != nil {
			return nil, err
		}
		var (
			at      int
			answer  string
			ended   *run.State
			seconds *float64
			enqueue bool
			c       claimRow
			readied []Finish
			blobs   []tree.Blob
			objects []tree.Object
			claims  = make([]*Claim, len(list))
		)
		if _, err := pgx.ForEachRow(rows, append([]any{&at, &answer, &ended, &seconds, &enqueue}, c.fields()...), func() error {
			i := order[at]
			f, d := list[i], &done[i]
			switch answer {
			case "fenced":
				d.Err = fault.New(fault.Fenced, "fenced", "step %s: fence %d is lost", f.Claim.StepID, f.Claim.Fence)
			case "lapsed":
				d.Err = leaseLapsed()
			case "ok":
				for _, ck := range f.Checkpoints {
					blobs, objects = append(blobs, ck.Blobs...), append(objects, ck.Objects...)
				}
				for _, a := range f.Artifacts {
					objects = append(objects, tree.Object{Key: a.Key, SHA256: tree.Digest(a.SHA256), Bytes: a.Size, Kind: "blob"})
				}
			}
			if ended != nil {
				d.Ended, d.After = *ended, time.Duration(*seconds*float64(time.Second))
			}
			if enqueue {
				readied = append(readied, f)
			}
			d.Next = c.claim(tenant)
			claims[i] = d.Next
			if d.Next != nil && len(d.Next.Parents) == 1 {
				d.Next.Parents[0] = f.Checkpoints[len(f.Checkpoints)-1].parent() // it depends only on this step
			}
			return nil
		}); err != nil {
			return nil, err
		}
		insertBlobs(tx, tenant, blobs, objects)
		for _, f := range readied {
			if err := db.enqueueReady(trace.ContextWithSpanContext(ctx, f.Span), tx, tenant, f.Claim.RunID); err != nil {
				return nil, err
			}
		}
		if err := parents(ctx, tx, tenant, claims); err != nil {
			return nil, err
		}
		return done, start(tx, claims, func(i int) (Pre, trace.SpanContext) { return list[i].Chain.Pre, list[i].Chain.Span })
	})
}

// item returns f as nofx.finish_steps reads it.
func (f Finish) item() map[string]any {
	item := map[string]any{
		"run_id": f.Claim.RunID, "step_id": f.Claim.StepID, "fence": f.Claim.Fence, "traceparent": spanParent(f.Span), "outcome": f.Outcome,
	}
	if f.Reason != "" {
		item["reason"] = clip(f.Reason)
	}
	if f.FailureClass != "" {
		item["failure_class"] = f.FailureClass
	}
	if f.Outcome == "retry" {
		item["delay_s"] = f.Delay.Seconds()
	}
	if f.ExitCode != nil {
		item["exit_code"] = f.ExitCode
	}
	if f.Usage != (run.Usage{}) {
		item["usage"] = f.Usage
	}
	if f.Outputs != nil {
		item["outputs"] = f.Outputs
	}
	if f.Checkpoints != nil {
		checkpoints := make([]map[string]any, len(f.Checkpoints))
		for i, c := range f.Checkpoints {
			checkpoints[i] = c.document()
		}
		item["checkpoints"] = checkpoints
	}
	if f.Artifacts != nil {
		artifacts := make([]map[string]any, len(f.Artifacts))
		for i, a := range f.Artifacts {
			artifacts[i] = map[string]any{"id": a.ID, "name": a.Name, "key": a.Key, "media_type": a.MediaType,
				"size_bytes": a.Size, "sha256": hex.EncodeToString(a.SHA256)}
		}
		item["artifacts"] = artifacts
	}
	if g := f.Gate; g != nil {
		gate := map[string]any{"id": g.ID, "name": g.Name, "kind": g.Kind, "message": nullable(g.Message), "input_digest": g.InputDigest,
			"shown_checkpoint_id": g.ShownCheckpoint, "shown_digest": g.ShownDigest, "reason": nullable(clip(g.Reason))}
		if g.Evidence != nil {
			gate["evidence"] = g.Evidence
		}
		if g.Event != "" {
			gate["event"] = g.Event
		}
		item["gate"] = gate
	}
	if w := f.Wait; w != nil {
		wait := map[string]any{"kind": w.Kind, "after_s": w.After.Seconds(), "quorum": max(w.Quorum, 1)}
		if w.Key != "" {
			wait["key"] = w.Key
		}
		item["wait"] = wait
	}
	if c := f.Chain; c != nil {
		item["chain"] = map[string]any{"queue": c.Queue, "job_id": c.JobID, "trace_id": c.Span.TraceID().String(), "span_id": c.Span.SpanID().String()}
	}
	return item
}

// clip makes any text fit the column of a reason: valid UTF-8 without NUL, at most
// run.MaxReasonBytes long.
func clip(s string) string {
	const mark = "…"
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) <= run.MaxReasonBytes {
		return s
	}
	cut := run.MaxReasonBytes - len(mark)
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}
