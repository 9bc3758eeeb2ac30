package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// startMerge starts the computation of a merge of another run into this one, and answers
// with the merge, which may be one that was asked for before.
func (s *Server) startMerge(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	target, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	in, body, err := readJSON[api.MergeRequest](c)
	if err != nil {
		return err
	}
	var n postgres.NewMerge
	_, span := s.tracer.Start(c.Request().Context(), "run.create")
	defer span.End()
	return s.answerOnce(c, p, request{
		body: body,
		check: func() (err error) {
			n, err = newMerge(in)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			n.TargetRunID, n.CreatedBy, n.CorrelationID = target, p.Subject, c.Request().Header.Get("X-Correlation-Id")
			m, created, err := s.Store.StartMerge(ctx, p.Tenant, n)
			if err != nil {
				return postgres.Answer{}, err
			}
			status := http.StatusOK
			if created {
				status = http.StatusCreated
			}
			out := api.MergeAnswer{Merge: s.apiMerge(m)}
			return postgres.Answer{
				Status: status,
				Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "ETag": etag(m.Version), "Location": "/api/merges/" + out.Merge.ID},
				Body:   encode(out),
			}, nil
		},
	})
}

// newMerge returns the merge that in asks for, or all that is wrong with it.
func newMerge(in api.MergeRequest) (n postgres.NewMerge, err error) {
	var fields []fault.Field
	if n.SourceRunID, err = run.RunID.Parse(in.SourceRunID); err != nil {
		fields = append(fields, fault.Field{Pointer: "/source_run_id", Detail: "no such run"})
	}
	n.Strategy, n.Mode = run.ManualStrategy, run.NormalMode
	if in.Strategy != nil {
		if n.Strategy = run.MergeStrategy(*in.Strategy); !in.Strategy.Valid() {
			fields = append(fields, fault.Field{Pointer: "/strategy", Detail: "must be manual, ours or theirs"})
		}
	}
	if in.Mode != nil {
		if n.Mode = run.MergeMode(*in.Mode); !in.Mode.Valid() {
			fields = append(fields, fault.Field{Pointer: "/mode", Detail: "must be normal or strict"})
		}
	}
	if in.BaseCheckpointID != nil {
		base, err := run.CheckpointID.Parse(*in.BaseCheckpointID)
		if err != nil {
			fields = append(fields, fault.Field{Pointer: "/base_checkpoint_id", Detail: "no such checkpoint"})
		}
		n.BaseID = &base
	}
	if len(fields) > 0 {
		return n, fault.OfFields("invalid-field", fields...)
	}
	return n, nil
}

// listMerges answers the merges into a run, newest first.
func (s *Server) listMerges(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, before := q.limit(200), q.afterID("merges")
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	list, err := s.Store.Merges(c.Request().Context(), p.Tenant, id, before, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "merges", list, limit, func(m run.Merge) string { return m.ID.String() })
	return answer(c, http.StatusOK, api.MergePage{Items: convert(list, s.apiMerge), NextCursor: next})
}

// getMerge answers a merge with a page of its conflicts.
func (s *Server) getMerge(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterNumber("conflicts", 0)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.MergeID, "merge_id")
	if err != nil {
		return err
	}
	m, err := s.Store.Merge(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	return s.answerMerge(c, p, m, after, limit, http.StatusOK, nil)
}

// conflictsShown is how many conflicts the answers to changes of a merge have.
const conflictsShown = 50

// answerMerge answers a merge with a page of its conflicts.
func (s *Server) answerMerge(c echo.Context, p *identity.Principal, m run.Merge, after int64, limit, status int, requeued *int) error {
	a, err := s.mergeAnswer(c, p, m, after, limit)
	if err != nil {
		return err
	}
	a.Requeued = requeued
	setETag(c, m.Version)
	return answer(c, status, a)
}

func (s *Server) mergeAnswer(c echo.Context, p *identity.Principal, m run.Merge, after int64, limit int) (api.MergeAnswer, error) {
	list, err := s.Store.MergeConflicts(c.Request().Context(), p.Tenant, m.ID, int(after), limit+1)
	if err != nil {
		return api.MergeAnswer{}, err
	}
	list, next := page(c, "conflicts", list, limit, func(c run.MergeConflict) string { return strconv.Itoa(c.N) })
	out := api.MergeAnswer{Merge: s.apiMerge(m), NextCursor: next}
	out.Merge.Conflicts = convert(list, s.apiConflict)
	return out, nil
}

// resolveMerge records decisions about conflicts.
func (s *Server) resolveMerge(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.MergeID, "merge_id")
	if err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in, _, err := readJSON[resolutionsRequest](c)
	if err != nil {
		return err
	}
	list, err := newResolutions(in)
	if err != nil {
		return err
	}
	ctx, span := s.tracer.Start(c.Request().Context(), "run.create")
	defer span.End()
	m, err := s.Store.ResolveMerge(ctx, p.Tenant, id, list, version, p.Subject)
	if err != nil {
		return err
	}
	return s.answerMerge(c, p, m, 0, conflictsShown, http.StatusOK, nil)
}

// resolutionsRequest is the contract's MergeResolutions. It tells a take of null, which
// takes a decision back, from none.
type resolutionsRequest struct {
	Resolutions []resolutionRequest `json:"resolutions"`
}

type resolutionRequest struct {
	api.MergeResolution
	Take json.RawMessage `json:"take"`
}

// maxResolutions is how many decisions a request may have: a merge has no more conflicts.
const maxResolutions = 10_000

// newResolutions returns the decisions that in has, or all that is wrong with them.
func newResolutions(in resolutionsRequest) (list []run.MergeResolution, err error) {
	var fields []fault.Field
	if n := len(in.Resolutions); n == 0 || n > maxResolutions {
		fields = append(fields, fault.Field{Pointer: "/resolutions", Detail: fmt.Sprintf("%d of them; 1 to %d are possible", n, maxResolutions)})
	}
	seen := map[run.MergeResolution]bool{}
	for i, r := range in.Resolutions[:min(len(in.Resolutions), maxResolutions)] {
		at := "/resolutions/" + strconv.Itoa(i)
		bad := func(member, detail string) {
			fields = append(fields, fault.Field{Pointer: at + member, Detail: detail})
		}
		var out run.MergeResolution
		switch {
		case (r.Path == nil) == (r.Pointer == nil):
			bad("", "one of path and pointer is required")
			continue
		case r.Path != nil:
			if out.Unit, out.At = run.PathUnit, *r.Path; !goodPath(out.At) {
				bad("/path", "is no path in the workspace")
			}
		default:
			if out.Unit, out.At = run.PointerUnit, *r.Pointer; !strings.HasPrefix(out.At, "/") || len(out.At) > 4096 {
				bad("/pointer", "is no JSON pointer into the state document")
			}
		}
		if place := (run.MergeResolution{Unit: out.Unit, At: out.At}); seen[place] {
			bad("", "the same place was given before")
		} else {
			seen[place] = true
		}
		if take := []byte(r.Take); len(take) > 0 && take[0] != '"' && string(take) != "null" {
			return nil, malformed(at+"/take", "must be a string or null")
		}
		takeOf(r, &out, bad)
		list = append(list, out)
	}
	if len(fields) > 0 {
		return nil, fault.OfFields("invalid-field", fields[:min(len(fields), 100)]...)
	}
	return list, nil
}

// goodPath reports whether a path can be one of a file of a workspace.
func goodPath(p string) bool {
	if len(p) > 1024 || path.Clean(p) != p {
		return false
	}
	for name := range strings.SplitSeq(p, "/") {
		if !tree.ValidName(name) {
			return false
		}
	}
	return true
}

const takes = "ours, theirs, base, both, value, artifact or null"

// takeOf reads what a resolution takes.
func takeOf(r resolutionRequest, out *run.MergeResolution, bad func(member, detail string)) {
	var take run.Take
	switch {
	case len(r.Take) == 0:
		bad("/take", "is required: "+takes)
		return
	case string(r.Take) == "null":
		if r.Value != nil || r.ArtifactID != nil {
			bad("/take", "is null, so that there is no value and no artifact")
		}
		return
	case json.Unmarshal(r.Take, &take) != nil || !api.MergeTake(take).Valid():
		bad("/take", "must be "+takes)
		return
	}
	out.Take = &take
	if (take == run.TakeValue) != (r.Value != nil) {
		bad("/value", "belongs to take value, and is required there")
	} else if r.Value != nil {
		text := string(r.Value)
		if out.Unit == run.PathUnit {
			if r.Value[0] != '"' || json.Unmarshal(r.Value, &text) != nil || !utf8.ValidString(text) {
				bad("/value", "must be a string, the content of the file")
			}
		}
		out.Value = &text
	}
	if (take == run.TakeArtifact) != (r.ArtifactID != nil) {
		bad("/artifact_id", "belongs to take artifact, and is required there")
	} else if r.ArtifactID != nil {
		id, err := run.ArtifactID.Parse(*r.ArtifactID)
		if err != nil {
			bad("/artifact_id", "no such artifact")
		}
		out.ArtifactID = &id
	}
}

// abandonMerge ends a merge that nobody commits.
func (s *Server) abandonMerge(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.MergeID, "merge_id")
	if err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	reason, err := s.readReason(c)
	if err != nil {
		return err
	}
	m, err := s.Store.AbandonMerge(c.Request().Context(), p.Tenant, id, postgres.Verb{Reason: reasonOr(p, reason), Version: version})
	if err != nil {
		return err
	}
	return s.answerMerge(c, p, m, 0, conflictsShown, http.StatusOK, nil)
}

// commitMerge makes the result of a merge the head of its target. It waits while a worker
// stores the result.
func (s *Server) commitMerge(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	wait := waitFor(q)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.MergeID, "merge_id")
	if err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in, err := readOptionalJSON[api.MergeCommit](c)
	if err != nil {
		return err
	}
	if err := s.awaitResult(c, p, id, wait); err != nil {
		return err
	}
	var reason string
	var unprepared *run.Merge
	var changed run.Run
	var outcome run.MergeOutcome
	errUnprepared := errors.New("the result of the merge is not stored yet")
	a, err := s.once(c, p, request{
		body: encode(in),
		check: func() (err error) {
			reason, err = s.cleanReason(in.Reason)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			ctx, span := s.tracer.Start(ctx, "merge.commit")
			defer span.End()
			m, became, requeued, err := s.Store.CommitMerge(ctx, p.Tenant, id, in.Resume != nil && *in.Resume, postgres.Verb{Reason: reasonOr(p, reason), Version: version}, p.Subject)
			switch {
			case err != nil:
				return postgres.Answer{}, err
			case became == postgres.MergeUnprepared:
				unprepared = &m
				return postgres.Answer{}, errUnprepared
			case became == postgres.MergeMoved:
				// It is no error of the transaction, which opened the merge again.
				moved := fault.OfStale(fault.Stale{Version: m.Version})
				moved.Detail = fmt.Sprintf("the target has a new head; the merge is computed anew, and its version is now %d", m.Version)
				stale := s.problem(c.Request(), moved)
				stale.Status, stale.Title = http.StatusPreconditionFailed, http.StatusText(http.StatusPreconditionFailed)
				return s.form(c)(c.Request(), stale), nil
			}
			outcome = m.Outcome
			if changed, err = s.Store.Run(ctx, p.Tenant, m.TargetRunID); err != nil {
				return postgres.Answer{}, err
			}
			linkToRun(span, changed)
			out := api.MergeAnswer{Merge: s.apiMerge(m), Requeued: &requeued}
			return postgres.Answer{
				Status: http.StatusOK,
				Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "ETag": etag(m.Version)},
				Body:   encode(out),
			}, nil
		},
	})
	if errors.Is(err, errUnprepared) && unprepared != nil {
		return s.unprepared(c, p, *unprepared)
	}
	if err != nil {
		return err
	}
	if changed.Version != 0 { // and no stored answer
		s.Metrics.Merges.Inc(string(outcome))
		s.countEnd(c.Request().Context(), changed)
	}
	return s.send(c, a)
}

// awaitResult waits for the system run that computes a merge, if one is under way or has to
// be started. One that failed is an error.
func (s *Server) awaitResult(c echo.Context, p *identity.Principal, id uuid.UUID, wait time.Duration) error {
	ctx, span := s.tracer.Start(c.Request().Context(), "run.create")
	defer span.End()
	m, err := s.Store.Merge(ctx, p.Tenant, id)
	if err != nil || m.State != run.Ready || m.Prepared() {
		return err
	}
	if m, err = s.Store.ComputeMerge(ctx, p.Tenant, id, p.Subject); err != nil || m.WorkRunID == nil {
		return err
	}
	r, err := s.Store.Run(ctx, p.Tenant, *m.WorkRunID)
	if err == nil {
		r, err = s.ended(ctx, r, wait)
	}
	if err != nil {
		return err
	}
	if r.State == run.Failed || r.State == run.Cancelled {
		return fault.New(fault.Conflict, "merge-failed", "run %s, which computes the merge, is %s: %s; commit again to compute it again",
			run.RunID.Format(r.ID), r.State, r.Reason)
	}
	return nil
}

// unprepared answers 202: the result of a merge is not stored yet.
func (s *Server) unprepared(c echo.Context, p *identity.Principal, m run.Merge) error {
	if m.WorkRunID != nil {
		c.Response().Header().Set("Location", "/api/runs/"+run.RunID.Format(*m.WorkRunID))
	}
	c.Response().Header().Set("Retry-After", "1")
	return s.answerMerge(c, p, m, 0, conflictsShown, http.StatusAccepted, nil)
}

func (s *Server) apiMerge(m run.Merge) api.Merge {
	out := api.Merge{
		ID: run.MergeID.Format(m.ID), TargetRunID: run.RunID.Format(m.TargetRunID), SourceRunID: run.RunID.Format(m.SourceRunID),
		TargetHeadCheckpointID: run.CheckpointID.Format(m.TargetHead), SourceHeadCheckpointID: run.CheckpointID.Format(m.SourceHead),
		BaseCheckpointID: run.CheckpointID.Format(m.BaseID), Status: api.MergeStatus(m.State), Version: m.Version,
		Strategy: api.MergeStrategy(m.Strategy), Mode: api.MergeMode(m.Mode), Prepared: m.Prepared(), TargetMoved: m.TargetMoved,
		ConflictCount: m.Conflicts, UnresolvedCount: m.Unresolved, ResultTreeDigest: ptr(m.ResultTree), ResultStateDigest: ptr(m.ResultState),
		FailureCode: ptr(m.FailureCode), Reason: ptr(m.Reason), CreatedBy: m.CreatedBy, CreatedAt: m.CreatedAt.UTC(), UpdatedAt: m.UpdatedAt.UTC(),
	}
	if m.WorkRunID != nil {
		out.MergeRunID = ptr(run.RunID.Format(*m.WorkRunID))
	}
	if m.CommittedID != nil {
		out.CommittedCheckpointID = ptr(run.CheckpointID.Format(*m.CommittedID))
	}
	if m.Outcome != "" {
		out.Outcome = ptr(api.MergeOutcome(m.Outcome))
		out.Preview = &api.MergePreview{
			Added: m.Preview.Added, Modified: m.Preview.Modified, Deleted: m.Preview.Deleted, Truncated: m.Preview.Truncated, State: m.Preview.State,
			Files: convert(m.Preview.Files, func(f run.MergeChange) api.MergeChange {
				return api.MergeChange{Path: f.Path, Status: api.MergeChangeStatus(f.Status)}
			}),
		}
	}
	return out
}

// apiConflict returns a conflict with the secrets masked that its texts quote.
func (s *Server) apiConflict(c run.MergeConflict) api.MergeConflict {
	out := api.MergeConflict{
		Kind: api.MergeConflictKind(c.Kind), Line: c.Line, RenamedTo: c.RenamedTo, ResolvedBy: c.ResolvedBy, Reason: c.Reason,
		Takes: convert(c.Takes, func(t run.Take) api.MergeTake { return api.MergeTake(t) }),
		Base:  s.apiSide(c.At, c.Base), Ours: s.apiSide(c.At, c.Ours), Theirs: s.apiSide(c.At, c.Theirs),
	}
	if c.Unit == run.PathUnit {
		out.Path = &c.At
	} else {
		out.Pointer = &c.At
	}
	if c.Resolution != nil {
		out.Resolution = ptr(api.MergeTake(*c.Resolution))
	}
	return out
}

// apiSide returns what a side has at a place, with secrets masked.
func (s *Server) apiSide(at string, side *run.MergeSide) *api.MergeSide {
	if side == nil {
		return nil
	}
	out := &api.MergeSide{Sha256: ptr(side.SHA256), SizeBytes: side.Size, Mode: ptr(side.Mode), Excerpt: ptr(s.Redactor.String(side.Excerpt))}
	if side.Kind == run.SideRedacted {
		out.Kind, out.Excerpt = ptr(api.MergeSideKindRedacted), nil
	}
	if side.Value != nil {
		name := at[strings.LastIndexByte(at, '/')+1:] // which may say that the value is a secret
		for _, value := range s.Redactor.Members(map[string]any{name: side.Value}) {
			out.Value = encode(value)
		}
	}
	return out
}
