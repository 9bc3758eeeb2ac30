package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// maxWebhook is how long the body of a webhook may be.
const maxWebhook = 5 << 20

// pullRequestEvent is what is read of GitHub's event pull_request.
type pullRequestEvent struct {
	Action      string
	Number      int
	PullRequest struct {
		Draft     bool
		UpdatedAt *time.Time `json:"updated_at"`
		Head      struct{ SHA string }
	} `json:"pull_request"`
	Repository struct {
		FullName string `json:"full_name"`
	}
}

// reviewedActions are the actions upon pull requests that have them reviewed.
var reviewedActions = []string{"opened", "synchronize", "reopened", "ready_for_review"}

// receiveGitHubWebhook starts the review of a pull request that GitHub tells about.
func (s *Server) receiveGitHubWebhook(c echo.Context, _ *identity.Principal) error {
	q := readQuery(c)
	named, _ := q.text("repository")
	if err := q.err(); err != nil {
		return err
	}
	header := c.Request().Header
	d := postgres.Delivery{ID: header.Get("X-GitHub-Delivery"), Event: header.Get("X-GitHub-Event")}
	r, body, err := s.signedWebhook(c, named, header.Get("X-Hub-Signature-256"))
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"X-GitHub-Delivery": d.ID, "X-GitHub-Event": d.Event} {
		if value == "" || len(value) > 64 || run.BadText(value) != "" {
			return badParameter(name, "1 to 64 characters")
		}
	}
	var e pullRequestEvent
	if err := json.Unmarshal(body, &e); err != nil {
		return malformed("", "it is not the JSON of an event")
	}
	if d.Event == "pull_request" && e.Number > 0 {
		d.PullRequest, d.SubjectAt = &e.Number, e.PullRequest.UpdatedAt
	}
	ctx := postgres.WithActor(c.Request().Context(), webhookSubject(r))
	out, err := s.Store.Deliver(ctx, r, d, func(ctx context.Context) (postgres.Delivered, error) {
		return s.deliver(ctx, c.Request(), r, d, e)
	})
	if err != nil {
		return err
	}
	a := api.WebhookAnswer{Result: api.WebhookResult(out.Result), Reason: ptr(out.Reason)}
	if out.ReviewID != nil {
		a.ReviewID = ptr(run.ReviewID.Format(*out.ReviewID))
	}
	return answer(c, http.StatusOK, a)
}

// webhookSubject returns who acts when a webhook of a repository does.
func webhookSubject(r postgres.Repository) string {
	return "webhook:" + strings.TrimPrefix(run.RepositoryID.Format(r.ID), string(run.RepositoryID)+"_")
}

// signedWebhook returns the repository that a webhook names and its body, whose signature is
// right. All else is fault.Unauthenticated, so that nobody learns what repositories there
// are. The body is read only for a repository that is there.
func (s *Server) signedWebhook(c echo.Context, named, signature string) (r postgres.Repository, body []byte, err error) {
	wrong := fault.New(fault.Unauthenticated, "unauthenticated", "the signature is not that of a repository's webhook")
	id, err := run.RepositoryID.Parse(named)
	if err != nil || s.webhooksOff() != nil {
		return r, nil, wrong
	}
	given, err := hex.DecodeString(strings.TrimPrefix(signature, "sha256="))
	if err != nil || len(given) != sha256.Size || !strings.HasPrefix(signature, "sha256=") {
		return r, nil, wrong
	}
	req := c.Request()
	if r, err = s.Store.RepositoryOfWebhook(req.Context(), id); err != nil {
		if errors.Is(err, fault.NotFound) {
			err = wrong
		}
		return r, nil, err
	}
	if media, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || media != echo.MIMEApplicationJSON {
		return r, nil, fault.New(fault.Invalid, "unsupported-media-type", "the webhook's content type must be application/json")
	}
	body, err = io.ReadAll(http.MaxBytesReader(c.Response(), req.Body, maxWebhook))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return r, nil, fault.New(fault.Invalid, "too-large", "the body is longer than %d bytes", maxWebhook)
	}
	if err != nil {
		return r, nil, fault.New(fault.Invalid, "malformed-json", "the body could not be read to its end").Because(err)
	}
	h := hmac.New(sha256.New, []byte(s.webhookSecret(r)))
	h.Write(body)
	if !hmac.Equal(given, h.Sum(nil)) {
		return r, nil, wrong
	}
	return r, body, nil
}

// deliver acts upon a delivery that is new.
func (s *Server) deliver(ctx context.Context, req *http.Request, r postgres.Repository, d postgres.Delivery, e pullRequestEvent) (postgres.Delivered, error) {
	ignored := func(format string, args ...any) (postgres.Delivered, error) {
		return postgres.Delivered{Result: "ignored", Reason: fmt.Sprintf(format, args...)}, nil
	}
	switch {
	case d.Event != "pull_request":
		return ignored("events %s start nothing", d.Event)
	case !slices.Contains(reviewedActions, e.Action):
		return ignored("action %s starts nothing", e.Action)
	case !strings.EqualFold(e.Repository.FullName, r.Name):
		return ignored("it is about another repository than %s", r.Name)
	case e.Number < 1 || !commitShape.MatchString(e.PullRequest.Head.SHA):
		return ignored("it names no head of a pull request")
	case !r.Enabled:
		return postgres.Delivered{Result: "skipped", Reason: "the webhook is switched off"}, nil
	case e.PullRequest.Draft:
		return postgres.Delivered{Result: "skipped", Reason: "it is a draft"}, nil
	}
	n := postgres.NewReview{Project: r.Project, HeadSHA: e.PullRequest.Head.SHA,
		Inputs: run.ReviewInputs{Provider: review.GitHub, Repository: r.Name, PullRequest: e.Number, HeadSHA: e.PullRequest.Head.SHA}}
	v, created, err := s.beginReview(ctx, req, &identity.Principal{Tenant: r.TenantID, Subject: webhookSubject(r)}, n)
	switch {
	case errors.Is(err, fault.Forbidden):
		return postgres.Delivered{Result: "skipped", Reason: err.Error()}, nil
	case err != nil:
		return postgres.Delivered{}, err
	case !created:
		return postgres.Delivered{Result: "exists", Reason: "the head has a review", ReviewID: &v.ID}, nil
	}
	return postgres.Delivered{Result: "started", ReviewID: &v.ID}, nil
}
