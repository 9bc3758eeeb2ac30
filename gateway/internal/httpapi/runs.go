package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// planRequest is the contract's RunRequest with the plan as the system knows it.
type planRequest struct {
	Plan run.Plan `json:"plan"`
}

// readPlan returns readJSON for a plan: what of the request does not fit is said together
// with all else that is wrong with the plan.
func readPlan(c echo.Context) (in planRequest, body []byte, err error) {
	in, body, err = readJSON[planRequest](c)
	e, _ := errors.AsType[*fault.Error](err)
	if _, ok := errors.AsType[unfit](err); ok {
		err = in.Plan.Refusal(e.Code, e.Fields)
	} else if codeOf(err) == "too-large" {
		err = fault.New(e.Kind, e.Code, "the plan is longer than %d bytes: upload its large parts (nofx artifact upload FILE, or POST /api/artifacts) and name them in the plan by artifact_id, in the files of workspace:write or as the workspace", maxBody)
	}
	return in, body, err
}

// createRun starts a run: 201 with the run and its steps. Callers repeat it with
// their Idempotency-Key when they did not hear the answer.
func (s *Server) createRun(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, body, err := readPlan(c)
	if err != nil {
		return err
	}
	// The run stores the context of the server's span, so this one is beside it.
	_, span := s.tracer.Start(c.Request().Context(), "run.create", trace.WithAttributes(attribute.Int("nofx.steps", len(in.Plan.Steps))))
	defer span.End()
	var plan run.Plan
	return s.answerOnce(c, p, request{
		body: body,
		check: func() (err error) {
			plan, err = in.Plan.Normalise()
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			project, err := projectOf(c.Request())
			if err != nil {
				return postgres.Answer{}, err
			}
			return s.startRun(ctx, c.Request(), p, project, plan, span)
		},
	})
}

// startRun creates a run of a normalised plan and makes the answer that says so.
func (s *Server) startRun(ctx context.Context, r *http.Request, p *identity.Principal, project string, plan run.Plan, span trace.Span) (postgres.Answer, error) {
	if err := s.weigh(p, len(plan.Steps)); err != nil {
		return postgres.Answer{}, err
	}
	plan.Goal = s.Redactor.String(plan.Goal) // it is a title: lists and events show it
	made, steps, err := s.Store.CreateRun(ctx, p.Tenant, postgres.NewRun{
		Project: project, Plan: plan, CorrelationID: r.Header.Get("X-Correlation-Id"), CreatedBy: p.Subject,
	})
	if err != nil {
		return postgres.Answer{}, err
	}
	span.SetAttributes(telemetry.RunIDKey.String(run.RunID.Format(made.ID)))
	made.CreatedByName = p.Name
	created := apiRun(made)
	return postgres.Answer{
		Status: http.StatusCreated,
		Header: map[string]string{
			"Content-Type": echo.MIMEApplicationJSON, "ETag": etag(made.Version), "Location": "/api/runs/" + created.ID,
		},
		Body: encode(api.CreatedRun{Run: created, Steps: convert(steps, apiStep)}),
	}, nil
}

// defaultProject is the slug of the project of runs that name none.
const defaultProject = "default"

// projectOf returns the project that the caller names. A slug that could be none is
// unknown like any other.
func projectOf(r *http.Request) (string, error) {
	given := r.Header.Values("X-Project-Id")
	switch {
	case len(given) == 0:
		return defaultProject, nil
	case len(given) == 1 && slugShape.MatchString(given[0]):
		return given[0], nil
	}
	return "", fault.New(fault.NotFound, "not-found", "no such project")
}

// previewRun checks a plan and answers how it would run, writing nothing.
func (s *Server) previewRun(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readPlan(c)
	if err != nil {
		return err
	}
	plan, err := in.Plan.Normalise()
	if err != nil {
		return err
	}
	if err := s.Store.CheckPlan(c.Request().Context(), p.Tenant, plan); err != nil {
		return err
	}
	_, digest, err := plan.Canonical()
	if err != nil {
		return err
	}
	out := api.RunPreview{PlanDigest: digest, Graph: graph(plan.Expanded().Steps)}
	raw, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("plan as JSON: %w", err)
	}
	if err := json.Unmarshal(raw, &out.Plan); err != nil {
		return fmt.Errorf("plan in the contract's form: %w", err)
	}
	return answer(c, http.StatusOK, out)
}

// graph returns the steps of a normalised plan by level: each needs only levels before
// its own.
func graph(steps []run.PlanStep) api.PlanGraph {
	g := api.PlanGraph{Levels: [][]string{}, Edges: []api.PlanEdge{}}
	needs := make(map[string][]string, len(steps))
	for _, step := range steps {
		needs[step.Name] = step.DependsOn
		for _, name := range step.DependsOn {
			g.Edges = append(g.Edges, api.PlanEdge{Needs: name, Step: step.Name})
		}
	}
	depth := make(map[string]int, len(steps))
	var level func(name string) int
	level = func(name string) int {
		if d, ok := depth[name]; ok {
			return d
		}
		d := 0
		for _, before := range needs[name] {
			d = max(d, level(before)+1)
		}
		depth[name] = d
		return d
	}
	for _, step := range steps {
		d := level(step.Name)
		for len(g.Levels) <= d {
			g.Levels = append(g.Levels, nil)
		}
		g.Levels[d] = append(g.Levels[d], step.Name)
	}
	return g
}

// getRun answers a run with its steps and gates and where its events stand, all of
// one moment: read this, then follow the stream, and nothing is missed.
func (s *Server) getRun(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	d, err := s.Store.RunDetail(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	setETag(c, d.Run.Version)
	return answer(c, http.StatusOK, api.RunDetail{
		Run: apiRun(d.Run), Steps: convert(d.Steps, apiStep), Gates: convert(d.Gates, apiGate),
		StreamCursor: strconv.FormatInt(d.Run.EventSeq, 10),
	})
}

func apiRun(r run.Run) api.Run {
	out := api.Run{
		ID: run.RunID.Format(r.ID), RootRunID: run.RunID.Format(r.RootRunID), Kind: api.RunKind(r.Kind), Project: r.Project, Name: ptr(r.Name), Goal: r.Goal,
		Status: api.RunStatus(r.State), Version: r.Version, Labels: r.Labels, PlanDigest: r.PlanDigest, TraceID: r.TraceID,
		CorrelationID: ptr(r.CorrelationID), FailureClass: ptr(api.FailureClass(r.FailureClass)), FailureSignature: ptr(r.FailureSignature),
		Reason: ptr(r.Reason), Deadline: utc(r.Deadline), CreatedBy: r.CreatedBy, CreatedByName: ptr(r.CreatedByName), CreatedAt: r.CreatedAt.UTC(), StartedAt: utc(r.StartedAt), FinishedAt: utc(r.FinishedAt),
	}
	if out.Labels == nil {
		out.Labels = api.Labels{}
	}
	if r.SubjectRunID != nil {
		out.SubjectRunID = ptr(run.RunID.Format(*r.SubjectRunID))
	}
	if r.ParentRunID != nil {
		out.ParentRunID = ptr(run.RunID.Format(*r.ParentRunID))
	}
	if r.ParentCheckpointID != nil {
		out.ParentCheckpointID = ptr(run.CheckpointID.Format(*r.ParentCheckpointID))
	}
	if r.HeadCheckpointID != nil {
		out.HeadCheckpointID = ptr(run.CheckpointID.Format(*r.HeadCheckpointID))
	}
	return out
}
