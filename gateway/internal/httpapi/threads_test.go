package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// threads are the webhooks of a forge about threads of pull request 7.
type threads struct {
	provider          string
	resolved, opened  string // its events
	thread            func(n int) string
	says              func(resolved bool, pull, thread int, who string) string
	person, ours, who string // accounts, and the person as a subject
}

var threadsOf = []threads{
	{
		"github", "pull_request_review_thread", "pull_request_review_thread", func(n int) string { return fmt.Sprintf("PRRT_%d", n) },
		func(resolved bool, pull, thread int, who string) string {
			return fmt.Sprintf(`{"action":%q,"pull_request":{"number":%d,"user":{"login":"octocat"}},"thread":{"node_id":"PRRT_%d","comments":[{"id":%[3]d,"node_id":"x"}]},"repository":{"full_name":"Acme/Shop"},"sender":{"login":%[4]q}}`,
				map[bool]string{true: "resolved", false: "unresolved"}[resolved], pull, thread, who)
		},
		"hubber", "Nofx-Bot", "github:hubber",
	},
	{
		"bitbucket", "pullrequest:comment_resolved", "pullrequest:comment_reopened", func(n int) string { return fmt.Sprint(n) },
		func(_ bool, pull, thread int, who string) string {
			return fmt.Sprintf(`{"actor":{"nickname":"Ann Other","account_id":"557058:1","uuid":%q},"pullrequest":{"id":%d,"state":"OPEN","author":{"uuid":"octocat"}},"comment":{"id":%d},"repository":{"full_name":"Acme/Shop"}}`, who, pull, thread)
		},
		"{2}", "NOFX-bot", "bitbucket:Ann Other",
	},
}

// A finding follows its thread on the forge, as far as its state allows it. What a review
// does itself is not taken for a person's doing.
func TestWebhookThreads(t *testing.T) {
	for _, f := range threadsOf {
		t.Run(f.provider, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			g := newGateway(t, func(c *Config) { c.Metrics = telemetry.NewMetrics(registry, "test") })
			made := g.do(http.MethodPost, "/api/repositories", `{"provider":"`+f.provider+`","name":"acme/shop"}`)
			g.want(made, http.StatusCreated, "")
			repo := decodeAs[api.RepositoryAnswer](t, made)
			start := func(head string) (*postgres.Claim, review.Review) {
				t.Helper()
				r := g.do(http.MethodPost, "/api/reviews", `{"provider":"`+f.provider+`","repository":"ACME/shop","pull_request":7,"head_sha":"`+strings.Repeat(head, 40)+`"}`)
				g.want(r, http.StatusAccepted, "")
				c, v := g.beginReview(decodeAs[api.CreatedReview](t, r).Review)
				if _, err := g.db.NoteReviewHead(t.Context(), c, v.ID, v.HeadSHA, "", "nofx-bot"); err != nil {
					t.Fatal(err)
				}
				return c, v
			}
			ids := []uuid.UUID{run.NewID(), run.NewID(), run.NewID()}
			var found []postgres.Occurrence
			for i, id := range ids {
				o := occurrence(id, fmt.Sprint("fp1.", i), review.Low)
				o.Finding.ThreadID, o.Finding.CommentID = f.thread(i+1), fmt.Sprint(i+1)
				found = append(found, o)
			}
			c, v := start("a")
			g.endReview(c, v, postgres.ReviewEnd{Verdict: review.Failed, Occurrences: found})

			n := 0
			tell := func(when string, resolved bool, pull, thread int, who string, want api.WebhookResult, says string) {
				t.Helper()
				n++
				event := f.opened
				if resolved {
					event = f.resolved
				}
				r := g.deliver(repo.Webhook, fmt.Sprint("d", n), event, f.says(resolved, pull, thread, who))
				g.want(r, http.StatusOK, "")
				a := decodeAs[api.WebhookAnswer](t, r)
				if a.Result != want || a.Reason == nil || !strings.Contains(*a.Reason, says) || (a.FindingID != nil) != (want == api.WebhookResultSettled) {
					t.Errorf("%s: %s, want %s: %s", when, r.body, want, says)
				}
			}
			is := func(i int, state api.FindingStatus, by string) {
				t.Helper()
				got := decodeAs[api.FindingAnswer](t, g.get("/api/findings/"+run.FindingID.Format(ids[i]))).Finding
				if got.Status != state || by != "" && (got.DecidedBy == nil || *got.DecidedBy != by || got.Reason == nil) {
					t.Errorf("finding %d = %s by %v: %v, want %s by %s", i, got.Status, got.DecidedBy, got.Reason, state, by)
				}
			}
			tell("opened while it is open", false, 7, 1, f.person, api.WebhookResultIgnored, "the finding is open")
			tell("resolved", true, 7, 1, f.person, api.WebhookResultSettled, "the finding is resolved")
			is(0, api.FindingStatusResolved, f.who)
			tell("resolved again", true, 7, 1, f.person, api.WebhookResultIgnored, "the finding is resolved")
			tell("opened again", false, 7, 1, "octocat", api.WebhookResultSettled, "the finding is open")
			is(0, api.FindingStatusOpen, "")
			tell("another thread", true, 7, 9, f.person, api.WebhookResultIgnored, "no finding has the thread")
			tell("of another pull request", true, 8, 1, f.person, api.WebhookResultIgnored, "no finding has the thread")
			tell("of no pull request", true, 0, 1, f.person, api.WebhookResultIgnored, "names no head")
			r := g.deliver(repo.Webhook, "d2", f.resolved, f.says(true, 7, 1, f.person))
			if a := decodeAs[api.WebhookAnswer](t, r); a.Result != api.WebhookResultDuplicate {
				t.Errorf("the same delivery = %s, want a duplicate", r.body)
			}
			is(0, api.FindingStatusOpen, "")

			// A review that is posting resolves the thread of finding 1, and a person that of 2.
			c, v = start("b")
			tell("by the review", true, 7, 2, f.ours, api.WebhookResultIgnored, "a review that is not over did it")
			is(1, api.FindingStatusOpen, "")
			tell("by a person meanwhile", true, 7, 3, f.person, api.WebhookResultSettled, "the finding is resolved")
			g.endReview(c, v, postgres.ReviewEnd{Verdict: review.Passed, Fixed: []postgres.Fix{{ID: ids[1]}, {ID: ids[2]}}})
			is(1, api.FindingStatusFixed, "")
			is(2, api.FindingStatusResolved, f.who)
			tell("by the review, told late", true, 7, 2, f.ours, api.WebhookResultIgnored, "the finding is fixed")
			is(1, api.FindingStatusFixed, "")
			tell("fixed, and opened by a person", false, 7, 2, f.person, api.WebhookResultSettled, "the finding is open")
			tell("by our account, of itself", true, 7, 2, f.ours, api.WebhookResultSettled, "the finding is resolved")

			g.want(g.do(http.MethodPatch, "/api/repositories/"+repo.Repository.ID, `{"enabled":false}`), http.StatusOK, "")
			tell("while it is off", false, 7, 2, f.person, api.WebhookResultSkipped, "switched off")
			g.want(g.do(http.MethodPost, "/api/findings/"+run.FindingID.Format(ids[0])+"/dismiss", `{"reason":"no"}`), http.StatusOK, "")
			want := map[string]float64{"resolved reviewer": 3, "open author": 1, "open reviewer": 1, "dismissed reviewer": 1}
			for what, n := range resolutions(t, registry) {
				if n != want[what] {
					t.Errorf("review_resolutions_total of %s = %v, want %v", what, n, want[what])
				}
				delete(want, what)
			}
			if len(want) > 0 {
				t.Errorf("review_resolutions_total has no %v", want)
			}
			g.sound()
		})
	}
}

// resolutions returns review_resolutions_total by state and by whom, where it is not 0.
func resolutions(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range all {
		if !strings.HasSuffix(f.GetName(), "review_resolutions_total") {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if n := m.GetCounter().GetValue(); n > 0 {
				got[labels["state"]+" "+labels["by"]] = n
			}
		}
	}
	return got
}

// Names of people come from the forge and are shown: they hold nothing that steers a display.
func TestSomebody(t *testing.T) {
	t.Parallel()
	for want, names := range map[string][]string{
		"octocat":   {"octocat"},
		"nofx[bot]": {"nofx[bot]"},
		"Zoë K.":    {"Zoë K.", "557058:1"},
		"557058:1":  {"", "557058:1"},
		"{a}":       {"a\u202eb", strings.Repeat("x", 101), "{a}"},
		"somebody":  {"\x1b[31m", "a\nb", ""},
	} {
		if got := somebody(names...); got != want {
			t.Errorf("somebody(%q) = %q, want %q", names, got, want)
		}
	}
}
