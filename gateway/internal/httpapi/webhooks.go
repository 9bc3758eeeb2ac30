package httpapi

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
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

// notice is what a delivery tells, as far as anything is done about it.
type notice struct {
	of          string // why nothing is done, if nothing is
	repository  string
	pullRequest int
	head        string
	draft       bool
	at          *time.Time // of the change
	settled     *settled
}

// settled is a thread that somebody resolved, or took that back.
type settled struct {
	thread, comment string // the thread, and its first comment
	resolved        bool
	by              string   // who, for people
	accounts        []string // what else the forge calls them
	author          bool     // it is the author of the pull request
}

// numbered reports whether the pull request can be one.
func (n notice) numbered() bool { return n.pullRequest > 0 && n.pullRequest <= math.MaxInt32 }

// hooks are the webhooks of a forge: the headers of a delivery, and how its body is read.
type hooks struct {
	provider                   review.Provider
	delivery, event, signature string
	shape                      shape // of the names of heads
	read                       func(event string, body []byte) (notice, error)
}

// receiveWebhook returns the handler that acts upon what a forge tells about pull requests.
func (s *Server) receiveWebhook(from hooks) func(echo.Context, *identity.Principal) error {
	return func(c echo.Context, _ *identity.Principal) error {
		q := readQuery(c)
		named, _ := q.text("repository")
		if err := q.err(); err != nil {
			return err
		}
		header := c.Request().Header
		d := postgres.Delivery{ID: header.Get(from.delivery), Event: header.Get(from.event)}
		r, body, err := s.signedWebhook(c, from, named)
		if err != nil {
			return err
		}
		for name, value := range map[string]string{from.delivery: d.ID, from.event: d.Event} {
			if value == "" || len(value) > 64 || run.BadText(value) != "" {
				return badParameter(name, "1 to 64 characters")
			}
		}
		n, err := from.read(d.Event, body)
		if err != nil {
			return malformed("", "it is not the JSON of an event")
		}
		if n.numbered() && n.settled == nil { // a thread says nothing about heads
			d.PullRequest, d.SubjectAt = &n.pullRequest, n.at
		}
		subject := webhookSubject(r)
		if n.settled != nil {
			subject = fmt.Sprintf("%s:%s", r.Provider, n.settled.by)
		}
		ctx := postgres.WithVia(postgres.WithActor(c.Request().Context(), subject), "webhook")
		out, err := s.Store.Deliver(ctx, r, d, func(ctx context.Context) (postgres.Delivered, error) {
			return s.deliver(ctx, c.Request(), r, from, n)
		})
		if err != nil {
			return err
		}
		a := api.WebhookAnswer{Result: api.WebhookResult(out.Result), Reason: ptr(out.Reason)}
		if out.ReviewID != nil {
			a.ReviewID = ptr(run.ReviewID.Format(*out.ReviewID))
		}
		if t := out.Thread; t != nil {
			a.FindingID = ptr(run.FindingID.Format(t.FindingID))
			by := "reviewer"
			if n.settled.author {
				by = "author"
			}
			s.Metrics.ReviewResolutions.Inc(string(t.State), by)
		}
		return answer(c, http.StatusOK, a)
	}
}

// webhookSubject returns who acts when a webhook of a repository does.
func webhookSubject(r postgres.Repository) string {
	return "webhook:" + strings.TrimPrefix(run.RepositoryID.Format(r.ID), string(run.RepositoryID)+"_")
}

// signedWebhook returns the repository that a webhook names and its body, whose signature is
// right. All else is fault.Unauthenticated, so that nobody learns what repositories there
// are. The body is read only for a repository that is there. Guesses are counted by address,
// and for each repository apart: forges send the webhooks of all tenants from the same addresses,
// where nobody's wrong secret may stop another's.
func (s *Server) signedWebhook(c echo.Context, from hooks, named string) (r postgres.Repository, body []byte, err error) {
	wrong := fault.New(fault.Unauthenticated, "unauthenticated", "the signature is not that of a repository's webhook")
	id, err := run.RepositoryID.Parse(named)
	req := c.Request()
	if err != nil || s.webhooksOff() != nil {
		return r, nil, wrong
	}
	signature := req.Header.Get(from.signature)
	given, err := hex.DecodeString(strings.TrimPrefix(signature, "sha256="))
	if err != nil || len(given) != sha256.Size || !strings.HasPrefix(signature, "sha256=") {
		return r, nil, wrong
	}
	if err := s.Identity.Spent(req, id.String()); err != nil {
		return r, nil, err
	}
	if r, err = s.Store.RepositoryOfWebhook(req.Context(), id); err != nil {
		if errors.Is(err, fault.NotFound) {
			err = s.Identity.Failed(req, "", wrong)
		}
		return r, nil, err
	}
	if r.Provider != from.provider {
		return r, nil, s.Identity.Failed(req, "", wrong)
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
		return r, nil, s.Identity.Failed(req, id.String(), wrong)
	}
	return r, body, nil
}

// deliver acts upon a delivery that is new.
func (s *Server) deliver(ctx context.Context, req *http.Request, r postgres.Repository, from hooks, n notice) (postgres.Delivered, error) {
	ignored := func(format string, args ...any) (postgres.Delivered, error) {
		return postgres.Delivered{Result: "ignored", Reason: fmt.Sprintf(format, args...)}, nil
	}
	switch {
	case n.of != "":
		return ignored("%s", n.of)
	case !strings.EqualFold(n.repository, r.Name):
		return ignored("it is about another repository than %s", r.Name)
	case !n.numbered() || n.settled == nil && !from.shape.MatchString(n.head):
		return ignored("it names no head of a pull request")
	case !r.Enabled:
		return postgres.Delivered{Result: "skipped", Reason: "the webhook is switched off"}, nil
	case n.settled != nil:
		return s.settleThread(ctx, r, n)
	case n.draft:
		return postgres.Delivered{Result: "skipped", Reason: "it is a draft"}, nil
	}
	start := postgres.NewReview{Project: r.Project, HeadSHA: n.head,
		Inputs: run.ReviewInputs{Provider: r.Provider, Repository: r.Name, PullRequest: n.pullRequest, HeadSHA: n.head}}
	v, created, err := s.beginReview(ctx, req, &identity.Principal{Tenant: r.TenantID, Subject: webhookSubject(r)}, start)
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

// settleThread resolves the finding of a thread, or opens it again, as the thread was on the
// forge. It reports what came of that.
func (s *Server) settleThread(ctx context.Context, r postgres.Repository, n notice) (postgres.Delivered, error) {
	t := postgres.Thread{
		Provider: r.Provider, Repository: r.Name, PullRequest: n.pullRequest,
		ID: n.settled.thread, Comment: n.settled.comment, Accounts: append(n.settled.accounts, n.settled.by),
		Event: "reopen", Reason: "its thread was opened again on the forge",
	}
	if n.settled.resolved {
		t.Event, t.Reason = "resolve", "its thread was resolved on the forge"
	}
	out := postgres.Delivered{Result: "ignored"}
	done, err := s.Store.SettleThread(ctx, r.TenantID, t)
	switch {
	case errors.Is(err, fault.NotFound):
		out.Reason = "no finding has the thread"
	case err != nil:
		return postgres.Delivered{}, err
	case done.Outcome == postgres.ThreadRefused:
		out.Reason = fmt.Sprintf("the finding is %s", done.State)
	case done.Outcome == postgres.ThreadOurs:
		out.Reason = "a review that is not over did it"
	default:
		out = postgres.Delivered{Result: "settled", Reason: fmt.Sprintf("the finding is %s", done.State), Thread: &done}
	}
	return out, nil
}
