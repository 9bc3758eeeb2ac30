package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// listReviewFindings answers what a review reported, the worst first.
func (s *Server) listReviewFindings(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterNumber("findings", 0)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.ReviewID, "review_id")
	if err != nil {
		return err
	}
	list, err := s.Store.ReviewFindings(c.Request().Context(), p.Tenant, id, int(after), limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "findings", list, limit, func(review.Record) string { return strconv.FormatInt(after+int64(limit), 10) })
	return answer(c, http.StatusOK, api.FindingPage{Items: convert(list, apiFinding), NextCursor: next})
}

// getFinding answers one finding.
func (s *Server) getFinding(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.FindingID, "finding_id")
	if err != nil {
		return err
	}
	f, err := s.Store.Finding(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	return answerFinding(c, f)
}

func answerFinding(c echo.Context, f review.Record) error {
	setETag(c, f.Version)
	return answer(c, http.StatusOK, api.FindingAnswer{Finding: apiFinding(f)})
}

// resolveFinding records that somebody has dealt with a finding.
func (s *Server) resolveFinding(c echo.Context, p *identity.Principal) error {
	reason, err := s.readReason(c)
	if err != nil {
		return err
	}
	return s.settle(c, p, postgres.FindingDecision{Event: "resolve", Reason: reason})
}

// reopenFinding takes back that a finding is settled, with a reason.
func (s *Server) reopenFinding(c echo.Context, p *identity.Principal) error {
	reason, err := s.requiredReason(c)
	if err != nil {
		return err
	}
	return s.settle(c, p, postgres.FindingDecision{Event: "reopen", Reason: reason})
}

// dismissFinding records that a finding is none, with a reason.
func (s *Server) dismissFinding(c echo.Context, p *identity.Principal) error {
	in, err := readOptionalJSON[api.Dismissal](c)
	if err != nil {
		return err
	}
	d := postgres.FindingDecision{Event: "dismiss", Scope: review.ScopeThis, Expires: in.ExpiresAt}
	if d.Reason, err = s.cleanReason(&in.Reason); err != nil {
		return err
	}
	if d.Reason == "" {
		return fieldFault("reason-required", "/reason", "a reason is required")
	}
	var fields []fault.Field
	if in.Scope != nil {
		if d.Scope = review.Scope(*in.Scope); !in.Scope.Valid() {
			fields = append(fields, fault.Field{Pointer: "/scope", Detail: "must be this, path or rule"})
		}
	}
	if at := in.ExpiresAt; at != nil && (at.Before(time.Now()) || at.Year() > 9999) {
		fields = append(fields, fault.Field{Pointer: "/expires_at", Detail: "must be a time to come"})
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	return s.settle(c, p, d)
}

// settle records a decision about a finding, and answers with the finding.
func (s *Server) settle(c echo.Context, p *identity.Principal, d postgres.FindingDecision) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.FindingID, "finding_id")
	if err != nil {
		return err
	}
	if d.Version, err = ifMatch(c); err != nil {
		return err
	}
	f, err := s.Store.SettleFinding(c.Request().Context(), p.Tenant, id, d)
	if err != nil {
		return err
	}
	s.Metrics.ReviewResolutions.Inc(string(f.State), "reviewer")
	return answerFinding(c, f)
}

func apiFinding(f review.Record) api.Finding {
	out := api.Finding{
		ID: f.ID, Provider: api.ReviewProvider(f.Provider), Repository: ptr(f.Repository), PullRequest: ptr(f.PullRequest), Fingerprint: f.Fingerprint,
		Status: api.FindingStatus(f.State), Version: f.Version, Category: string(f.Category), Severity: api.FindingSeverity(f.Severity), Confidence: f.Confidence,
		RuleID: ptr(f.RuleID), Title: f.Title, Body: f.Body, Evidence: append([]string{}, f.Evidence...), Suggestion: f.Suggestion,
		Path: f.Anchor.Path, Side: ptr(api.FindingSide(f.Anchor.Side)), StartLine: ptr(f.Anchor.StartLine), Line: ptr(f.Anchor.Line), Symbol: ptr(f.Anchor.Symbol), Text: ptr(f.Anchor.Text),
		Disposition: ptr(api.FindingDisposition(f.Disposition)), Why: ptr(f.Why),
		Reason: ptr(f.Reason), DecidedBy: ptr(f.DecidedBy), DecidedAt: utc(f.DecidedAt),
		FirstReviewID: run.ReviewID.Format(f.FirstReviewID), LastReviewID: run.ReviewID.Format(f.LastReviewID),
		ThreadID: ptr(f.ThreadID), CommentID: ptr(f.CommentID), URL: ptr(f.URL), CreatedAt: f.CreatedAt.UTC(), UpdatedAt: f.UpdatedAt.UTC(),
	}
	if d := f.Dismissal; d != nil {
		out.Scope, out.ExpiresAt = ptr(api.DismissalScope(d.Scope)), utc(d.Expires)
	}
	if g := f.Gone; g != nil {
		out.Fix = &api.FindingFix{Reason: g.Reason, Path: g.Path, Text: g.Text, Head: g.Head}
	}
	return out
}
