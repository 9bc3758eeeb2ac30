package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// collectGarbage has a worker delete what no checkpoint of the tenant needs from storage,
// and answers what it deleted, or with dry_run what it would delete.
func (s *Server) collectGarbage(c echo.Context, p *identity.Principal) error {
	var out api.GCAnswer
	return housekeeping(s, c, p, func(in api.GCRequest) work {
		return work{tool: run.ToolGC, goal: "collect garbage", inputs: run.GCInputs{DryRun: in.DryRun != nil && *in.DryRun}}
	}, func(id string) any { return api.GCAnswer{GcRunID: id} }, &out, func() string { return out.GcRunID }, &out.Collection)
}

// verifyStorage has a worker compare the rows of the tenant with storage, and answers what
// it found.
func (s *Server) verifyStorage(c echo.Context, p *identity.Principal) error {
	var out api.VerifyStorageAnswer
	return housekeeping(s, c, p, func(in api.VerifyStorageRequest) work {
		return work{tool: run.ToolVerifyStorage, goal: "verify storage", inputs: run.VerifyStorageInputs{Deep: in.Deep != nil && *in.Deep}}
	}, func(id string) any { return api.VerifyStorageAnswer{VerifyRunID: id} }, &out, func() string { return out.VerifyRunID }, &out.Verification)
}

// housekeeping answers a request for work on all that a tenant has stored, of which one run
// of each tool is live at a time, with the outputs of its step as report. answer makes the
// body that names the run, out is what such a body is decoded into, and id is the run's id
// in out.
func housekeeping[In, Report any](s *Server, c echo.Context, p *identity.Principal, task func(In) work, made func(id string) any, out any, id func() string, report **Report) error {
	q := readQuery(c)
	wait := waitFor(q)
	if err := q.err(); err != nil {
		return err
	}
	in, err := readOptionalJSON[In](c)
	if err != nil {
		return err
	}
	a, err := s.once(c, p, request{
		body:  encode(in),
		check: func() error { return nil },
		do: func(ctx context.Context) (postgres.Answer, error) {
			w := task(in)
			w.key, w.again = run.WholeTenant, true
			plan, err := run.SystemPlan(w.tool, w.goal, w.inputs)
			if err != nil {
				return postgres.Answer{}, err
			}
			_, digest, err := plan.Canonical()
			if err != nil {
				return postgres.Answer{}, err
			}
			r, err := s.startWork(ctx, c.Request(), p, w)
			if err != nil {
				return postgres.Answer{}, err
			}
			if r.PlanDigest != digest {
				return postgres.Answer{}, fault.New(fault.Conflict, "run-busy", "run %s, with other options, has not ended yet", run.RunID.Format(r.ID))
			}
			return started(r, made(run.RunID.Format(r.ID))), nil
		},
	})
	if err != nil {
		return err
	}
	r, over, err := s.awaited(c, p, a, wait, out, id)
	if err != nil || !over {
		return err
	}
	if r.State != run.Succeeded {
		return workFailed(r)
	}
	steps, err := s.Store.Steps(c.Request().Context(), p.Tenant, r.ID, -1, 1)
	if err != nil {
		return err
	}
	if len(steps) != 1 {
		return fmt.Errorf("run %s has %d steps", r.ID, len(steps))
	}
	if err := json.Unmarshal(steps[0].Outputs, report); err != nil {
		return fmt.Errorf("outputs of run %s: %w", r.ID, err)
	}
	return answer(c, http.StatusOK, out)
}

// purgeBlob replaces content by a tombstone, and has a worker delete its bytes.
func (s *Server) purgeBlob(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	wait := waitFor(q)
	if err := q.err(); err != nil {
		return err
	}
	given := c.Param("sha256")
	d, err := tree.ParseDigest("sha256:" + given)
	if err != nil {
		return fault.New(fault.NotFound, "not-found", "no such blob")
	}
	in, body, err := readJSON[api.PurgeRequest](c)
	if err != nil {
		return err
	}
	var reason string
	a, err := s.once(c, p, request{
		body: body,
		check: func() (err error) {
			if reason, err = s.cleanReason(in.Reason); err == nil && reason == "" {
				err = fieldFault("reason-required", "/reason", "a reason is required to purge content")
			}
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			t, err := s.Store.PurgeBlob(ctx, p.Tenant, d, reason)
			if err != nil {
				return postgres.Answer{}, err
			}
			r, err := s.startWork(ctx, c.Request(), p, work{
				tool: run.ToolPurge, key: given, goal: "purge " + given, inputs: run.PurgeInputs{SHA256: hex.EncodeToString(d[:])},
			})
			return started(r, api.PurgeAnswer{
				PurgeRunID: run.RunID.Format(r.ID), Purge: api.Purge{Sha256: given, By: t.By, At: t.At.UTC(), Reason: t.Reason},
			}), err
		},
	})
	if err != nil {
		return err
	}
	var out api.PurgeAnswer
	r, over, err := s.awaited(c, p, a, wait, &out, func() string { return out.PurgeRunID })
	if err != nil || !over {
		return err
	}
	if r.State != run.Succeeded {
		return workFailed(r)
	}
	return answer(c, http.StatusOK, out)
}
