package postgres

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

const mergeColumns = `m.id, m.target_run_id, m.source_run_id, m.target_head, m.source_head, m.base_id, m.asked_base_id, m.state, m.version, m.strategy, m.mode,
	m.work_run_id, coalesce(m.outcome, ''), m.conflicts, m.open_conflicts, coalesce(m.preview, '{}'), coalesce(m.result_tree, ''), coalesce(m.result_state, ''),
	m.committed_checkpoint_id, coalesce(m.failure_code, ''), coalesce(m.reason, ''), m.created_by, m.created_at, m.updated_at,
	m.state IN ('open', 'conflicted', 'ready') AND m.target_head <> (SELECT r.head_checkpoint_id FROM nofx.run r WHERE r.tenant_id = m.tenant_id AND r.id = m.target_run_id)
	FROM nofx.merge m`

func scanMerge(row pgx.CollectableRow) (m run.Merge, err error) {
	err = row.Scan(&m.ID, &m.TargetRunID, &m.SourceRunID, &m.TargetHead, &m.SourceHead, &m.BaseID, &m.AskedBaseID, &m.State, &m.Version, &m.Strategy, &m.Mode,
		&m.WorkRunID, &m.Outcome, &m.Conflicts, &m.Unresolved, &m.Preview, &m.ResultTree, &m.ResultState,
		&m.CommittedID, &m.FailureCode, &m.Reason, &m.CreatedBy, &m.CreatedAt, &m.UpdatedAt, &m.TargetMoved)
	return m, err
}

func oneMerge(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (run.Merge, error) {
	rows, err := tx.Query(ctx, "SELECT "+mergeColumns+" WHERE m.tenant_id = $1 AND m.id = $2", tenant, id)
	if err != nil {
		return run.Merge{}, err
	}
	m, err := pgx.CollectExactlyOneRow(rows, scanMerge)
	return m, missing(err, "merge")
}

// Merge returns one merge, or fault.NotFound.
func (db *DB) Merge(ctx context.Context, tenant, id uuid.UUID) (m run.Merge, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		m, err = oneMerge(ctx, tx, tenant, id)
		return err
	})
	return m, err
}

// Merges lists the merges into a run, the newest first, before one of them (nil: from the
// newest). An unknown run is fault.NotFound.
func (db *DB) Merges(ctx context.Context, tenant, target uuid.UUID, before *uuid.UUID, limit int) (list []run.Merge, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneRun(ctx, tx, tenant, target); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+mergeColumns+` WHERE m.target_run_id = $2 AND m.tenant_id = $1 AND ($3::uuid IS NULL OR m.id < $3)
			ORDER BY m.id DESC LIMIT $4`, tenant, target, before, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanMerge)
		return err
	})
	return list, err
}

// MergeConflicts lists the conflicts of a merge in their order, after the n-th.
func (db *DB) MergeConflicts(ctx context.Context, tenant, id uuid.UUID, after, limit int) (list []run.MergeConflict, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		list, err = conflictsOf(ctx, tx, tenant, id, "c.n > $3 ORDER BY c.n LIMIT $4", after, limit)
		return err
	})
	return list, err
}

func conflictsOf(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID, which string, args ...any) ([]run.MergeConflict, error) {
	rows, err := tx.Query(ctx, `SELECT c.n, c.unit, c.at, c.kind, c.line, c.renamed_to, c.takes, c.base, c.ours, c.theirs, c.resolution, c.value, c.artifact_id, c.resolved_by, c.reason
		FROM nofx.merge_conflict c WHERE c.tenant_id = $1 AND c.merge_id = $2 AND `+which, append([]any{tenant, id}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[run.MergeConflict])
}

// NewMerge is a merge to be computed.
type NewMerge struct {
	TargetRunID   uuid.UUID
	SourceRunID   uuid.UUID
	Strategy      run.MergeStrategy
	Mode          run.MergeMode
	BaseID        *uuid.UUID // nil: the nearest common checkpoint
	CorrelationID string
	CreatedBy     string
}

// AmbiguousBase is the refusal of a merge whose runs have several nearest common
// checkpoints.
type AmbiguousBase struct {
	error
	Bases []uuid.UUID
}

// Unwrap returns the fault.
func (a *AmbiguousBase) Unwrap() error { return a.error }

// NoBase returns the refusal of a merge of runs that have nothing in common.
func NoBase() *fault.Error {
	return fault.New(fault.Conflict, "no-common-base", "the two runs have no checkpoint in common: only runs of one line can be merged, such as a run and its branches")
}

// StartMerge makes a merge of the heads of two runs and starts the system run that computes
// it, or returns the one that there is of the same heads, asked for in the same way. An
// unknown target is fault.NotFound, an unknown source or base fault.Invalid. fault.Conflict
// is: system-run; no-common-base; ambiguous-base, an [AmbiguousBase], unless one is named;
// and the failure code of a merge that cannot be computed.
func (db *DB) StartMerge(ctx context.Context, tenant uuid.UUID, n NewMerge) (m run.Merge, created bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		// Neither expires while the merge is made, nor while it is open.
		if _, err := tx.Exec(ctx, "SELECT nofx.hold_runs($1)", []uuid.UUID{n.TargetRunID, n.SourceRunID}); err != nil {
			return err
		}
		target, err := oneRun(ctx, tx, tenant, n.TargetRunID)
		if err != nil {
			return err
		}
		source, err := oneRun(ctx, tx, tenant, n.SourceRunID)
		switch {
		case fault.KindOf(err) == fault.NotFound:
			return fault.OfFields("invalid-field", fault.Field{Pointer: "/source_run_id", Detail: "no such run"})
		case err != nil:
			return err
		case target.Kind == run.SystemRun || source.Kind == run.SystemRun:
			return fault.New(fault.Conflict, "system-run", "system runs have no checkpoints to merge")
		case source.ID == target.ID:
			return fault.OfFields("invalid-field", fault.Field{Pointer: "/source_run_id", Detail: "a run cannot be merged into itself"})
		}
		base, err := mergeBase(ctx, tx, tenant, n)
		if err != nil {
			return err
		}
		doc, err := document(map[string]any{"target_run_id": n.TargetRunID, "source_run_id": n.SourceRunID, "base_id": base,
			"asked_base_id": n.BaseID, "strategy": n.Strategy, "mode": n.Mode, "created_by": n.CreatedBy})
		if err != nil {
			return err
		}
		var id uuid.UUID
		if err := tx.QueryRow(ctx, "SELECT merge_id, created FROM nofx.create_merge($1, $2)", run.NewID(), doc).Scan(&id, &created); err != nil {
			return err
		}
		if m, err = oneMerge(ctx, tx, tenant, id); err != nil {
			return err
		}
		if m.FailureCode != "" {
			return fault.New(fault.Conflict, m.FailureCode, "%s", m.Reason)
		}
		m, err = db.computeMerge(ctx, tx, target, m, n.CorrelationID, n.CreatedBy)
		return err
	})
	return m, created, err
}

// mergeBase returns the common checkpoint from which a merge counts changes.
func mergeBase(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, n NewMerge) (uuid.UUID, error) {
	var ours, theirs []uuid.UUID
	if err := tx.QueryRow(ctx, "SELECT ARRAY(SELECT nofx.run_leaves($1)), ARRAY(SELECT nofx.run_leaves($2))", n.TargetRunID, n.SourceRunID).Scan(&ours, &theirs); err != nil {
		return uuid.Nil, err
	}
	if n.BaseID != nil {
		common, err := sharesAncestor(ctx, tx, tenant, ours, theirs, *n.BaseID)
		if err == nil && !common {
			err = fault.OfFields("invalid-field", fault.Field{Pointer: "/base_checkpoint_id", Detail: "no checkpoint that both runs descend from"})
		}
		return *n.BaseID, err
	}
	shared, err := sharedAncestors(ctx, tx, tenant, ours, theirs)
	if err != nil {
		return uuid.Nil, err
	}
	return BaseOf(shared, ours, theirs)
}

// BaseOf returns the base of a merge of leaves whose nearest common checkpoints are shared,
// or the fault.Conflict no-common-base or ambiguous-base. Where one side has all of the
// other there is nothing to choose.
func BaseOf(shared []Parent, ours, theirs []uuid.UUID) (uuid.UUID, error) {
	ids := make([]uuid.UUID, len(shared))
	for i, p := range shared {
		ids[i] = p.ID
	}
	switch {
	case len(ids) == 0:
		return uuid.Nil, NoBase()
	case len(ids) == 1, Contains(shared, ours), Contains(shared, theirs):
		return ids[0], nil
	}
	return uuid.Nil, &AmbiguousBase{Bases: ids, error: fault.New(fault.Conflict, "ambiguous-base",
		"the two runs have %d nearest common checkpoints; name one of them as base_checkpoint_id", len(ids))}
}

// Contains reports whether all these leaves are among shared checkpoints.
func Contains(shared []Parent, leaves []uuid.UUID) bool {
	return !slices.ContainsFunc(leaves, func(id uuid.UUID) bool {
		return !slices.ContainsFunc(shared, func(p Parent) bool { return p.ID == id })
	})
}

// computeMerge starts the system run that computes what m lacks, unless one is under way,
// and returns m with it.
func (db *DB) computeMerge(ctx context.Context, tx pgx.Tx, target run.Run, m run.Merge, correlation, by string) (run.Merge, error) {
	if m.Prepared() || m.State != run.Open && m.State != run.Ready {
		return m, nil
	}
	id := run.MergeID.Format(m.ID)
	plan, err := run.SystemPlan(run.ToolMerge, "compute merge "+id, run.MergeInputs{MergeID: id, Version: m.Version})
	if err != nil {
		return m, err
	}
	w, err := db.startWork(ctx, tx, target.TenantID, Work{
		Key: run.ToolMerge + "/" + id + "/" + strconv.FormatInt(m.Version, 10), Project: target.Project, Plan: plan,
		SubjectRunID: &target.ID, CorrelationID: correlation, CreatedBy: by,
	})
	if err != nil {
		return m, err
	}
	if _, err := tx.Exec(ctx, "SELECT nofx.assign_merge($1, $2)", m.ID, w.ID); err != nil {
		return m, err
	}
	m.WorkRunID = &w.ID
	return m, nil
}

// ComputeMerge starts the system run that computes what a merge lacks, unless one is under
// way or nothing is lacking, and returns the merge.
func (db *DB) ComputeMerge(ctx context.Context, tenant, id uuid.UUID, by string) (m run.Merge, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		m, err = db.recompute(ctx, tx, tenant, id, by)
		return err
	})
	return m, err
}

func (db *DB) recompute(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID, by string) (run.Merge, error) {
	m, err := oneMerge(ctx, tx, tenant, id)
	if err != nil {
		return m, err
	}
	target, err := oneRun(ctx, tx, tenant, m.TargetRunID)
	if err != nil {
		return m, err
	}
	return db.computeMerge(ctx, tx, target, m, "", by)
}

// ResolveMerge records decisions about conflicts, all or none; when the last one is decided
// it starts the computation of the result. A place that is no conflict and a decision that
// the conflict does not have are fault.Invalid, with the place of each in the list; a merge
// that is not conflicted or ready is fault.Conflict.
func (db *DB) ResolveMerge(ctx context.Context, tenant, id uuid.UUID, list []run.MergeResolution, version *int64, by string) (m run.Merge, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if m, err = oneMerge(ctx, tx, tenant, id); err != nil {
			return err
		}
		// Its conflicts change under this lock alone.
		if _, err := tx.Exec(ctx, "SELECT nofx.hold_runs($1)", []uuid.UUID{m.TargetRunID}); err != nil {
			return err
		}
		if m, err = oneMerge(ctx, tx, tenant, id); err != nil {
			return err
		}
		places, err := placesOf(ctx, tx, tenant, id)
		if err != nil {
			return err
		}
		items, fields := resolutions(places, list)
		if m.State != run.Open && len(fields) > 0 && !run.MergeMachine.Terminal(m.State) {
			return fault.OfFields("invalid-field", fields...)
		}
		if err := checkGiven(ctx, tx, tenant, list); err != nil {
			return err
		}
		doc, err := document(items)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT nofx.resolve_merge($1, $2, $3)", id, doc, version); err != nil {
			return err
		}
		m, err = db.recompute(ctx, tx, tenant, id, by)
		return err
	})
	return m, mergeRefused(err, m)
}

// mergeRefused returns an error about a merge's state with a detail that says what is to be
// done instead, and any other unchanged.
func mergeRefused(err error, m run.Merge) error {
	t, ok := fault.TransitionOf(err)
	if !ok {
		return err
	}
	e := fault.OfTransition(t).Because(err)
	resolves := t.Event != "commit"
	switch state := run.State(t.From); {
	case state == run.Open && resolves:
		e.Detail = "the merge is open: a worker is computing it, and its conflicts can be resolved once it is conflicted"
	case state == run.Open:
		e.Detail = "the merge is open: a worker is computing it, and it can be committed once it is ready"
	case state == run.Conflicted && m.Unresolved == 1:
		e.Detail = "1 conflict of the merge is not resolved" + because(m.Reason) + "; resolve it first"
	case state == run.Conflicted:
		e.Detail = fmt.Sprintf("%d conflicts of the merge are not resolved%s; resolve them first", m.Unresolved, because(m.Reason))
	case state == run.Committed && !resolves:
		e.Detail = "the merge is committed already"
	case resolves:
		e.Detail = fmt.Sprintf("the merge is %s, so that its conflicts cannot be resolved any more; start another merge", state)
	default:
		e.Detail = fmt.Sprintf("the merge is %s, so that it cannot be committed any more; start another merge", state)
	}
	return e
}

// because returns why a merge is conflicted again, as a part of a sentence, or "".
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func listed(takes []run.Take) string {
	var texts []string
	for _, take := range takes {
		texts = append(texts, string(take))
	}
	return strings.Join(texts, ", ")
}

// place is where a conflict is.
type place struct {
	unit run.MergeUnit
	at   string
}

// possible is a conflict with what can be taken for it.
type possible struct {
	n     int
	takes []run.Take
}

// placesOf returns all conflicts of a merge, by place. A request may decide 10,000 of them:
// picking those that it names in SQL compares each with each, as plans are made without a
// look at the list.
func placesOf(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (map[place][]possible, error) {
	rows, err := tx.Query(ctx, "SELECT c.n, c.unit, c.at, c.takes FROM nofx.merge_conflict c WHERE c.tenant_id = $1 AND c.merge_id = $2 ORDER BY c.n", tenant, id)
	if err != nil {
		return nil, err
	}
	known := map[place][]possible{}
	var c possible
	var p place
	_, err = pgx.ForEachRow(rows, []any{&c.n, &p.unit, &p.at, &c.takes}, func() error {
		known[p] = append(known[p], c)
		c.takes = nil // the next row gets a list of its own
		return nil
	})
	return known, err
}

// resolutions returns decisions by the numbers of the conflicts, and what is wrong with
// them.
func resolutions(known map[place][]possible, list []run.MergeResolution) (items []map[string]any, fields []fault.Field) {
	items = []map[string]any{}
	for i, r := range list {
		at := "/resolutions/" + strconv.Itoa(i)
		there := known[place{r.Unit, r.At}]
		for _, c := range there {
			if r.Take != nil && !slices.Contains(c.takes, *r.Take) {
				fields = append(fields, fault.Field{Pointer: at + "/take", Detail: fmt.Sprintf("%s is not possible for %s; possible are %s", *r.Take, r.At, listed(c.takes))})
			}
			items = append(items, map[string]any{"n": c.n, "take": r.Take, "value": r.Value, "artifact_id": r.ArtifactID})
		}
		if len(there) == 0 {
			fields = append(fields, fault.Field{Pointer: at + "/" + string(r.Unit), Detail: fmt.Sprintf("there is no conflict at %s", r.At)})
		}
	}
	return items, fields
}

// checkGiven returns fault.Invalid unless the artifacts that resolutions name can be read, and
// neither they nor the contents of files that resolutions bring were purged.
func checkGiven(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, list []run.MergeResolution) error {
	var fields []fault.Field
	given := map[tree.Digest]string{}         // what it is, in the request
	artifacts := map[uuid.UUID]run.Artifact{} // those that can be read; thousands of conflicts may take the same
	for i, r := range list {
		at := "/resolutions/" + strconv.Itoa(i)
		switch {
		case r.ArtifactID != nil:
			a, known := artifacts[*r.ArtifactID]
			if !known {
				var err error
				if a, err = oneArtifact(ctx, tx, tenant, *r.ArtifactID); err != nil && fault.KindOf(err) != fault.NotFound {
					return err
				}
				artifacts[*r.ArtifactID] = a
			}
			if a.State != run.Ready {
				fields = append(fields, fault.Field{Pointer: at + "/artifact_id", Detail: "no artifact that can be read"})
				continue
			}
			given[tree.Digest(a.SHA256)] = at + "/artifact_id"
		case r.Value != nil && r.Unit == run.PathUnit:
			given[tree.Sum([]byte(*r.Value))] = at + "/value"
		}
	}
	if len(given) > 0 {
		purged, err := blobsOf(ctx, tx, purgedBlobs, tenant, sums(slices.Collect(maps.Keys(given))))
		if err != nil {
			return err
		}
		for d := range purged {
			fields = append(fields, fault.Field{Pointer: given[d], Detail: "the content was purged by an administrator"})
		}
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	return nil
}

// AbandonMerge ends a merge. One that is committed or abandoned is fault.Conflict
// (illegal-transition).
func (db *DB) AbandonMerge(ctx context.Context, tenant, id uuid.UUID, v Verb) (m run.Merge, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.merge_transition($1, 'abandon', $2, $3)", id, nullable(v.Reason), v.Version); err != nil {
			return err
		}
		m, err = oneMerge(ctx, tx, tenant, id)
		return err
	})
	return m, err
}

// MergeAnswer is what became of a commit.
type MergeAnswer string

// The answers. In the first case only the merge is committed.
const (
	MergeCommitted  MergeAnswer = "ok"
	MergeMoved      MergeAnswer = "moved"      // the target has a new head; the merge is computed anew
	MergeUnprepared MergeAnswer = "unprepared" // a system run stores the result
)

// CommitMerge inserts the checkpoint of a merge that is ready and makes it the head of the
// target, whose steps that have not succeeded start from it, after fresh verdicts of the
// gates that had passed. With resume the target goes on at once; requeued is how many of
// its steps that makes run. fault.Conflict is: run-busy, unless the target is paused,
// waiting or has ended and none of its steps runs; illegal-transition; stale-version.
func (db *DB) CommitMerge(ctx context.Context, tenant, id uuid.UUID, resume bool, v Verb, by string) (m run.Merge, answer MergeAnswer, requeued int, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if m, err = oneMerge(ctx, tx, tenant, id); err != nil {
			return err
		}
		if m.FailureCode != "" {
			return fault.New(fault.Conflict, m.FailureCode, "%s", m.Reason)
		}
		if err := tx.QueryRow(ctx, "SELECT answer, requeued FROM nofx.commit_merge($1, $2, $3, $4)", id, v.Version, resume, nullable(v.Reason)).Scan(&answer, &requeued); err != nil {
			return err
		}
		if answer == MergeCommitted {
			if err := db.enqueueReady(ctx, tx, tenant, m.TargetRunID); err != nil {
				return err
			}
			m, err = oneMerge(ctx, tx, tenant, id)
			return err
		}
		m, err = db.recompute(ctx, tx, tenant, id, by)
		return err
	})
	return m, answer, requeued, mergeRefused(err, m)
}
