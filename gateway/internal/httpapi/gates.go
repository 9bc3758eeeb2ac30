package httpapi

import (
	"context"
	"net/http"
	"regexp"
	"time"

	"github.com/google/uuid"
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

// stepName is the shape of StepName in the contract, which names of gates have too.
var stepName = shape{regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`),
	"the name of a gate: 1 to 64 of a to z, 0 to 9, '_', '.' and '-', the first a letter or digit"}

// listGates answers gates of all runs, oldest first; with status=pending it is the inbox
// of approvers.
func (s *Server) listGates(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	f := postgres.GateFilter{
		State: oneOf(q, "status", run.GateMachine.States()...), Kind: oneOf(q, "kind", run.CommandGate, run.ReviewGate, run.ManualGate),
		Name: q.shaped("name", stepName), Project: q.slug("project"),
		After: q.afterID("gates"), Limit: q.limit(200), Within: searchWithin,
	}
	if err := q.err(); err != nil {
		return err
	}
	gates, more, err := s.Store.Gates(c.Request().Context(), p.Tenant, f)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.GatePage{Items: convert(gates, apiGate), NextCursor: nextPage(c, "gates", more)})
}

// getGate answers one gate.
func (s *Server) getGate(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.GateID, "gate_id")
	if err != nil {
		return err
	}
	g, err := s.Store.Gate(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	return answerGate(c, g)
}

func answerGate(c echo.Context, g run.Gate) error {
	setETag(c, g.Version)
	return answer(c, http.StatusOK, api.GateAnswer{Gate: apiGate(g)})
}

// approveGate lets a manual gate pass. The approver is the caller.
func (s *Server) approveGate(c echo.Context, p *identity.Principal) error {
	reason, err := s.readReason(c)
	if err != nil {
		return err
	}
	return s.decide(c, p, "approval.decide", postgres.Decision{Event: "approve", Reason: reason})
}

// rejectGate lets a manual gate fail, with a reason.
func (s *Server) rejectGate(c echo.Context, p *identity.Principal) error {
	reason, err := s.requiredReason(c)
	if err != nil {
		return err
	}
	return s.decide(c, p, "approval.decide", postgres.Decision{Event: "reject", Reason: reason})
}

// waiveGate goes on without a verdict, or in spite of one, with a reason.
func (s *Server) waiveGate(c echo.Context, p *identity.Principal) error {
	reason, err := s.requiredReason(c)
	if err != nil {
		return err
	}
	return s.decide(c, p, "gate.waive", postgres.Decision{Event: "waive", Reason: reason})
}

func (s *Server) requiredReason(c echo.Context) (string, error) {
	reason, err := s.readReason(c)
	if err == nil && reason == "" {
		err = fieldFault("reason-required", "/reason", "a reason is required")
	}
	return reason, err
}

func (s *Server) decide(c echo.Context, p *identity.Principal, span string, d postgres.Decision) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.GateID, "gate_id")
	if err != nil {
		return err
	}
	if d.Version, err = ifMatch(c); err != nil {
		return err
	}
	ctx, decided := s.tracer.Start(c.Request().Context(), span, trace.WithAttributes(attribute.String("nofx.decision", d.Event)))
	defer decided.End()
	g, err := s.Store.DecideGate(ctx, p.Tenant, id, d)
	if err != nil {
		return s.whoWon(ctx, p.Tenant, id, err)
	}
	decided.SetAttributes(telemetry.RunIDKey.String(run.RunID.Format(g.RunID)), attribute.Int64("nofx.wait_ms", time.Since(g.CreatedAt).Milliseconds()))
	s.Metrics.GateVerdicts.Inc(g.Name, string(g.State))
	if r, err := s.Store.Run(ctx, p.Tenant, g.RunID); err == nil {
		linkToRun(decided, r)
		s.countEnd(ctx, r)
	}
	return answerGate(c, g)
}

// whoWon returns err, with the gate as it is now where err refuses a transition: of two
// decisions at once, the loser sees the other one.
func (s *Server) whoWon(ctx context.Context, tenant, id uuid.UUID, err error) error {
	if _, refused := fault.TransitionOf(err); !refused {
		return err
	}
	if g, readErr := s.Store.Gate(ctx, tenant, id); readErr == nil {
		return decided{err, g}
	}
	return err
}

// decided is the refusal of a decision, with the gate as it was decided meanwhile.
type decided struct {
	error
	gate run.Gate
}

func (d decided) Unwrap() error { return d.error }

func apiGate(g run.Gate) api.Gate {
	out := api.Gate{
		ID: run.GateID.Format(g.ID), RunID: run.RunID.Format(g.RunID), StepID: run.StepID.Format(g.StepID), StepName: g.StepName, Round: g.Round, Name: g.Name,
		Kind: api.GateKind(g.Kind), Status: api.GateStatus(g.State), Version: g.Version, Message: ptr(g.Message), Evidence: g.Evidence, EvidenceOmitted: ptr(g.EvidenceOmitted),
		ShownDigest: ptr(g.ShownDigest), CreatedAt: g.CreatedAt.UTC(), AgeS: max(0, int64(time.Since(g.CreatedAt).Seconds())),
		ExpiresAt: utc(g.ExpiresAt), DecidedBy: ptr(g.DecidedBy), DecidedByName: ptr(g.DecidedByName), DecidedAt: utc(g.DecidedAt), Reason: ptr(g.Reason),
	}
	if g.Kind == run.ManualGate {
		out.Quorum, out.Approvals = ptr(g.Quorum), convert(g.Approvals, apiApproval)
	}
	if g.ShownCheckpointID != nil {
		out.ShownCheckpointID = ptr(run.CheckpointID.Format(*g.ShownCheckpointID))
	}
	return out
}

func apiApproval(a run.Approval) api.Approval {
	return api.Approval{By: a.By, ByName: ptr(a.ByName), Decision: api.ApprovalDecision(a.Decision), Reason: ptr(a.Reason), At: a.At.UTC()}
}
