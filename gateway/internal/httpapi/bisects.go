package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A bisection is a system run, and has its id: its inputs are those of the run's step, its
// probes the run's events, its answer the step's outputs.

// bisectRun starts a bisection.
func (s *Server) bisectRun(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	runID, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	in, body, err := readJSON[api.BisectRequest](c)
	if err != nil {
		return err
	}
	inputs := run.BisectInputs{RunID: run.RunID.Format(runID), Command: in.Command, Env: in.Env, TimeoutS: int(run.DefaultProbeTimeout.Seconds())}
	if in.TimeoutS != nil {
		inputs.TimeoutS = *in.TimeoutS
	}
	return s.answerOnce(c, p, request{
		body: body,
		check: func() error {
			fields, err := inputs.Check()
			if err == nil && len(fields) > 0 {
				err = fault.OfFields("invalid-field", fields...)
			}
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			if err := s.bisectEnds(ctx, p, runID, in, &inputs); err != nil {
				return postgres.Answer{}, err
			}
			plan, err := run.SystemPlan(run.ToolBisect, "bisect run "+inputs.RunID, inputs)
			if err != nil {
				return postgres.Answer{}, err
			}
			plan.Steps[0].TimeoutS = ptr(int(run.MaxStepTimeout.Seconds()))
			r, err := s.startPlan(ctx, c.Request(), p, plan, work{tool: run.ToolBisect, key: run.NewID().String(), subject: &runID})
			if err != nil {
				return postgres.Answer{}, err
			}
			id := run.RunID.Format(r.ID)
			return postgres.Answer{
				Status: http.StatusAccepted,
				Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "Location": "/api/bisects/" + id, "Retry-After": "1"},
				Body:   encode(api.BisectAnswer{Bisect: apiBisect(r, inputs, nil)}),
			}, nil
		},
	})
}

// bisectEnds fills in the ends of a bisection, by default the first and the last checkpoint
// of the line that leads to the run's head, and the number of candidates.
func (s *Server) bisectEnds(ctx context.Context, p *identity.Principal, runID uuid.UUID, in api.BisectRequest, inputs *run.BisectInputs) error {
	r, err := s.Store.Run(ctx, p.Tenant, runID)
	if err != nil {
		return err
	}
	given := func(id *string, at string) (*uuid.UUID, error) {
		if id == nil {
			return nil, nil
		}
		parsed, err := run.CheckpointID.Parse(*id)
		if err != nil {
			return nil, fieldFault("invalid-field", at, "no such checkpoint")
		}
		return &parsed, nil
	}
	good, err := given(in.Good, "/good")
	if err != nil {
		return err
	}
	bad, err := given(in.Bad, "/bad")
	if err != nil {
		return err
	}
	if bad == nil {
		bad = r.HeadCheckpointID
	}
	if bad == nil {
		return fault.New(fault.Conflict, "no-checkpoint", "no step of the run has left a checkpoint yet")
	}
	list, err := s.Store.Candidates(ctx, p.Tenant, good, *bad)
	switch {
	case errors.Is(err, fault.NotFound):
		return fieldFault("invalid-field", "/bad", "no such checkpoint")
	case errors.Is(err, fault.Invalid):
		return fieldFault("invalid-field", "/good", err.Error())
	case err != nil:
		return err
	case len(list) < 2:
		return fault.New(fault.Conflict, "nothing-to-bisect", "no step changed the workspace between the two checkpoints")
	}
	inputs.Good, inputs.Bad, inputs.Candidates = run.CheckpointID.Format(list[0].ID), run.CheckpointID.Format(*bad), len(list)
	return nil
}

// getBisect answers a bisection with its probes so far.
func (s *Server) getBisect(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "bisect_id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	d, err := s.Store.RunDetail(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	if d.Run.Kind != run.SystemRun || d.Steps[0].Tool != run.ToolBisect {
		return fault.New(fault.NotFound, "not-found", "no such bisection")
	}
	var plan run.Plan
	if err := json.Unmarshal(d.Run.Plan, &plan); err != nil {
		return fmt.Errorf("plan of run %s: %w", id, err)
	}
	inputs, err := run.Inputs[run.BisectInputs](plan.Steps[0].Inputs)
	if err != nil {
		return err
	}
	probes, err := s.Store.Probes(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	out := apiBisect(d.Run, inputs, probes)
	if d.Run.State == run.Succeeded {
		if err := s.addBad(ctx, p, &out, d.Steps[0].Outputs); err != nil {
			return err
		}
	}
	return answer(c, http.StatusOK, api.BisectAnswer{Bisect: out})
}

// addBad adds what a bisection has found, with the step that made the first bad checkpoint.
func (s *Server) addBad(ctx context.Context, p *identity.Principal, out *api.Bisect, outputs []byte) error {
	var found run.BisectOutputs
	if err := json.Unmarshal(outputs, &found); err != nil {
		return fmt.Errorf("outputs of bisection %s: %w", out.ID, err)
	}
	out.LastGood, out.FirstBad, out.Suspects = &found.LastGood, &found.FirstBad, found.Suspects
	id, err := run.CheckpointID.Parse(found.FirstBad)
	if err != nil {
		return err
	}
	author, err := s.Store.CheckpointAuthor(ctx, p.Tenant, id)
	if errors.Is(err, fault.NotFound) {
		return nil // its run is gone
	}
	if err != nil {
		return err
	}
	out.FirstBadRunID = ptr(run.RunID.Format(author.RunID))
	if author.StepID != nil {
		out.FirstBadStepID, out.FirstBadStepName = ptr(run.StepID.Format(*author.StepID)), ptr(author.StepName)
	}
	return nil
}

func apiBisect(r run.Run, in run.BisectInputs, probes []run.Probe) api.Bisect {
	out := api.Bisect{
		ID: run.RunID.Format(r.ID), RunID: in.RunID, Status: api.RunStatus(r.State),
		Command: in.Command, Good: in.Good, Bad: in.Bad, Candidates: in.Candidates, TimeoutS: in.TimeoutS,
		Probes: convert(probes, func(p run.Probe) api.BisectProbe {
			return api.BisectProbe{CheckpointID: p.CheckpointID, Outcome: api.BisectProbeOutcome(p.Outcome), ExitCode: p.ExitCode, DurationMs: p.DurationMS, Left: p.Left}
		}),
		CreatedAt: r.CreatedAt.UTC(), FinishedAt: utc(r.FinishedAt),
	}
	if r.FinishedAt != nil { // the reason of a retry does not concern the bisection
		out.Reason = ptr(r.Reason)
	}
	return out
}
