package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// createCheckpoint starts a system run that makes a manual checkpoint of what the finished
// steps of a run have left, and answers with the checkpoint once it is made.
func (s *Server) createCheckpoint(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	wait := waitFor(q)
	if err := q.err(); err != nil {
		return err
	}
	runID, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	in, err := readOptionalJSON[api.CheckpointRequest](c)
	if err != nil {
		return err
	}
	var label *string
	a, err := s.once(c, p, request{
		body: encode(in),
		check: func() (err error) {
			label, err = s.label(in.Label)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			leaves, err := s.Store.Leaves(ctx, p.Tenant, runID)
			if err != nil {
				return postgres.Answer{}, err
			}
			if len(leaves) == 0 {
				return postgres.Answer{}, fault.New(fault.Conflict, "no-checkpoint", "no step of the run has left a checkpoint yet")
			}
			id := run.CheckpointID.Format(run.NewID())
			inputs := run.CheckpointInputs{RunID: run.RunID.Format(runID), CheckpointID: id, Leaves: convert(leaves, run.CheckpointID.Format)}
			if label != nil {
				inputs.Label = *label
			}
			r, err := s.startWork(ctx, c.Request(), p, work{
				tool: run.ToolCheckpoint, key: id, goal: "checkpoint run " + inputs.RunID, inputs: inputs, subject: &runID,
			})
			return started(r, api.CreatedCheckpoint{CheckpointID: id, CheckpointRunID: run.RunID.Format(r.ID)}), err
		},
	})
	if err != nil {
		return err
	}
	var out api.CreatedCheckpoint
	r, over, err := s.awaited(c, p, a, wait, &out, func() string { return out.CheckpointRunID })
	if err != nil || !over {
		return err
	}
	id, err := run.CheckpointID.Parse(out.CheckpointID)
	if err != nil {
		return err
	}
	ck, err := s.Store.Checkpoint(c.Request().Context(), p.Tenant, runID, id)
	if errors.Is(err, fault.NotFound) {
		return workFailed(r)
	}
	if err != nil {
		return err
	}
	made := apiCheckpoint(ck)
	out.Checkpoint = &made
	c.Response().Header().Set("Location", "/api/runs/"+out.Checkpoint.RunID+"/checkpoints/"+out.CheckpointID)
	return answer(c, http.StatusCreated, out)
}

// archiveCheckpoint starts a system run that packs the workspace of a checkpoint, unless
// there is one, and answers with the archive and a URL that serves it once it is packed.
func (s *Server) archiveCheckpoint(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	wait := waitFor(q)
	if err := q.err(); err != nil {
		return err
	}
	if _, err := readOptionalJSON[struct{}](c); err != nil {
		return err
	}
	a, err := s.once(c, p, request{
		body:  []byte("{}"),
		check: func() error { return nil },
		do: func(ctx context.Context) (postgres.Answer, error) {
			ck, err := s.checkpoint(c, p)
			if err != nil {
				return postgres.Answer{}, err
			}
			in := run.ArchiveInputs{RunID: run.RunID.Format(ck.RunID), CheckpointID: run.CheckpointID.Format(ck.ID)}
			r, err := s.startWork(ctx, c.Request(), p, work{
				tool: run.ToolArchive, key: in.CheckpointID, goal: "archive checkpoint " + in.CheckpointID, inputs: in, subject: &ck.RunID,
			})
			return started(r, api.CheckpointArchive{ArchiveRunID: run.RunID.Format(r.ID)}), err
		},
	})
	if err != nil {
		return err
	}
	var out api.CheckpointArchive
	r, over, err := s.awaited(c, p, a, wait, &out, func() string { return out.ArchiveRunID })
	if err != nil || !over {
		return err
	}
	ctx := c.Request().Context()
	made, err := s.Store.Artifacts(ctx, p.Tenant, r.ID, nil, 1)
	if err != nil {
		return err
	}
	if len(made) == 0 && r.State == run.Succeeded {
		return blob.Purged(fmt.Errorf("the archive of run %s", r.ID))
	}
	if len(made) == 0 {
		return workFailed(r)
	}
	signed, err := s.signedArtifact(ctx, p, made[0])
	if err != nil {
		return err
	}
	out.Artifact = &signed
	return answer(c, http.StatusOK, out)
}

// maxLabel is the length in characters of the longest label of a checkpoint.
const maxLabel = 100

// markCheckpoint changes the label and the hold of a checkpoint. A hold is a supervisor's
// to change, with a reason.
func (s *Server) markCheckpoint(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.CheckpointMark](c)
	if err != nil {
		return err
	}
	mark, err := s.newMark(in)
	if err != nil {
		return err
	}
	if mark.Hold != nil {
		if err := p.Allow(api.RoleSupervisor, ""); err != nil {
			return err
		}
	}
	runID, err1 := pathID(c, run.RunID, "run_id")
	id, err2 := pathID(c, run.CheckpointID, "checkpoint_id")
	if err1 != nil || err2 != nil {
		return fault.New(fault.NotFound, "not-found", "no such checkpoint")
	}
	ck, err := s.Store.MarkCheckpoint(c.Request().Context(), p.Tenant, runID, id, mark)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.CheckpointAnswer{Checkpoint: apiCheckpoint(ck)})
}

// newMark returns the mark that in asks for, or all that is wrong with it.
func (s *Server) newMark(in api.CheckpointMark) (postgres.Mark, error) {
	m := postgres.Mark{Hold: in.Hold}
	if in.Label == nil && in.Hold == nil {
		return m, fieldFault("invalid-field", "", "label or hold is required")
	}
	var err error
	if m.Label, err = s.label(in.Label); err != nil {
		return m, err
	}
	if m.Reason, err = s.cleanReason(in.Reason); err != nil {
		return m, err
	}
	if m.Hold != nil && m.Reason == "" {
		return m, fieldFault("reason-required", "/reason", "a reason is required to change a hold")
	}
	return m, nil
}

// label returns the label that a caller gave, with secrets masked.
func (s *Server) label(given *string) (*string, error) {
	if given == nil || *given == "" {
		return given, nil
	}
	if detail := badName(*given, maxLabel); detail != "" {
		return nil, fieldFault("invalid-field", "/label", detail)
	}
	return ptr(s.Redactor.String(*given)), nil
}
