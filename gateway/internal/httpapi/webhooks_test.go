package httpapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/review"
)

// repository lets the webhook of a repository start reviews.
func (g *gateway) repository(name string) api.RepositoryAnswer {
	g.Helper()
	r := g.do(http.MethodPost, "/api/repositories", `{"provider":"github","name":"`+name+`"}`)
	g.want(r, http.StatusCreated, "")
	return decodeAs[api.RepositoryAnswer](g, r)
}

// pulled returns GitHub's event of a pull request.
func pulled(action, head, updated string, draft bool) string {
	return fmt.Sprintf(`{"action":%q,"number":7,"pull_request":{"draft":%t,"updated_at":"2026-03-04T05:06:%sZ","title":"approve this","head":{"sha":%q}},"repository":{"full_name":"Acme/Shop"},"sender":{"login":"x"}}`,
		action, draft, updated, strings.Repeat(head, 40))
}

// deliver sends a webhook as the forge does that its path is for.
func (g *gateway) deliver(w *api.RepositoryWebhook, id, event, body string, headers ...header) reply {
	g.Helper()
	h := hmac.New(sha256.New, []byte(w.Secret))
	h.Write([]byte(body))
	signature := "sha256=" + hex.EncodeToString(h.Sum(nil))
	signed := header{"Authorization": "", "X-GitHub-Delivery": id, "X-GitHub-Event": event, "X-Hub-Signature-256": signature}
	if strings.HasPrefix(w.Path, "/api/webhooks/bitbucket") {
		signed = header{"Authorization": "", "X-Request-UUID": id, "X-Event-Key": event, "X-Hub-Signature": signature}
	}
	return g.do(http.MethodPost, w.Path, body, append([]header{signed}, headers...)...)
}

// TestS13_WrongSignatures checks that guessed signatures of a repository are limited by
// address, without harm to other repositories whose webhooks come from there.
func TestS13_WrongSignatures(t *testing.T) {
	g := newGateway(t)
	one, two := g.repository("acme/one").Webhook, g.repository("acme/two").Webhook
	wrong := api.RepositoryWebhook{Path: one.Path, Secret: two.Secret}
	for range 10 {
		g.want(g.deliver(&wrong, "d", "ping", `{}`), http.StatusUnauthorized, "unauthenticated")
	}
	r := g.deliver(&wrong, "d", "ping", `{}`)
	g.want(r, http.StatusTooManyRequests, "rate-limited")
	if wait := r.header.Get("Retry-After"); wait == "" || wait == "0" {
		t.Errorf("Retry-After = %q, want seconds", wait)
	}
	// Nor is a right one looked at from there: it would tell which guess was right. A try comes
	// back every six seconds, so a slow machine may need several.
	refused := false
	for range 50 {
		g.deliver(&wrong, "d", "ping", `{}`)
		if refused = g.deliver(one, "d", "ping", `{}`).status == http.StatusTooManyRequests; refused {
			break
		}
	}
	if !refused {
		t.Error("a right signature after too many wrong ones is taken, want 429")
	}
	g.want(g.deliver(two, "d", "ping", `{}`), http.StatusOK, "")
	g.want(g.get("/api/whoami", header{"Authorization": "Bearer " + g.newKey(g.tenant, api.RoleViewer)}), http.StatusOK, "")
	unknown := api.RepositoryWebhook{Secret: one.Secret}
	for i := range 11 {
		unknown.Path = fmt.Sprintf("/api/webhooks/github?repository=repo_%032x", i+1)
		want := http.StatusUnauthorized
		if i == 10 {
			want = http.StatusTooManyRequests
		}
		if r := g.deliver(&unknown, "d", "ping", `{}`); r.status != want {
			t.Errorf("guessed repository %d = %d, want %d", i+1, r.status, want)
		}
	}
	g.want(g.deliver(two, "e", "ping", `{}`), http.StatusOK, "")
}

// S28: webhooks are signed, unique and never go back to an older head.
func TestS28_GitHubWebhook(t *testing.T) {
	g := newGateway(t)
	repo := g.repository("acme/shop")
	w := repo.Webhook
	for i, tt := range []struct {
		id, event, body string
		want            api.WebhookResult
	}{
		{"d1", "ping", `{"zen":"x"}`, api.WebhookResultIgnored},
		{"d2", "pull_request", pulled("opened", "a", "01", true), api.WebhookResultSkipped},
		{"d3", "pull_request", pulled("ready_for_review", "a", "02", false), api.WebhookResultStarted},
		{"d3", "pull_request", pulled("ready_for_review", "a", "02", false), api.WebhookResultDuplicate},
		{"d4", "pull_request", pulled("reopened", "a", "02", false), api.WebhookResultExists},
		{"d5", "pull_request", pulled("synchronize", "c", "09", false), api.WebhookResultStarted},
		{"d6", "pull_request", pulled("synchronize", "b", "05", false), api.WebhookResultStale},
		{"d7", "pull_request", pulled("labeled", "c", "10", false), api.WebhookResultIgnored},
		{"d8", "pull_request", strings.Replace(pulled("opened", "d", "11", false), "Acme/Shop", "acme/other", 1), api.WebhookResultIgnored},
		{"d9", "pull_request", strings.Replace(pulled("opened", "d", "11", false), `"sha"`, `"ref"`, 1), api.WebhookResultIgnored},
		{"d10", "issue_comment", `{"comment":{"body":"/review"}}`, api.WebhookResultIgnored},
	} {
		r := g.deliver(w, tt.id, tt.event, tt.body)
		g.want(r, http.StatusOK, "")
		a := decodeAs[api.WebhookAnswer](t, r)
		if a.Result != tt.want || (a.ReviewID != nil) != (tt.want == api.WebhookResultStarted || tt.want == api.WebhookResultExists) || (a.Reason == nil) != (tt.want == api.WebhookResultStarted) {
			t.Errorf("delivery %d, %s of %s = %s, want %s", i, tt.id, tt.event, r.body, tt.want)
		}
	}
	list := decodeAs[api.ReviewPage](t, g.get("/api/reviews")).Items
	if len(list) != 2 || list[0].Status != api.ReviewStatusQueued || list[1].Status != api.ReviewStatusSuperseded || *list[0].Repository != "acme/shop" || *list[0].PullRequest != 7 || *list[0].HeadSha != strings.Repeat("c", 40) ||
		!strings.HasPrefix(list[0].CreatedBy, "webhook:") {
		t.Errorf("reviews = %+v, want that of the newest head, and the one that it superseded", list)
	}
	shown := decodeAs[api.RepositoryPage](t, g.get("/api/repositories")).Items
	if len(shown) != 1 || shown[0].LastResult == nil || *shown[0].LastResult != api.WebhookResultIgnored || shown[0].LastDeliveryAt == nil {
		t.Errorf("repositories = %+v, want what came of the last delivery", shown)
	}

	if _, err := g.pg.Admin.Exec(t.Context(), `UPDATE nofx.tenant SET settings = '{"reviews_enabled": false}' WHERE tenant_id = $1`, g.tenant); err != nil {
		t.Fatal(err)
	}
	body := pulled("synchronize", "e", "20", false)
	if a := decodeAs[api.WebhookAnswer](t, g.deliver(w, "d11", "pull_request", body)); a.Result != api.WebhookResultSkipped || a.Reason == nil || !strings.Contains(*a.Reason, "reviews_enabled") {
		t.Errorf("delivery while reviews are off = %+v, want it skipped", a)
	}
	for name, h := range map[string]header{
		"no signature":       {"X-Hub-Signature-256": ""},
		"another signature":  {"X-Hub-Signature-256": "sha256=" + strings.Repeat("0", 64)},
		"half a signature":   {"X-Hub-Signature-256": "sha256=00"},
		"an older algorithm": {"X-Hub-Signature-256": "sha1=" + strings.Repeat("0", 40)},
	} {
		r := g.deliver(w, "x", "pull_request", body, h)
		if r.status != http.StatusUnauthorized || r.code() != "unauthenticated" {
			t.Errorf("%s = %d %s, want 401", name, r.status, r.body)
		}
	}
	changed := *w
	for name, path := range map[string]string{"unknown": "repo_" + strings.Repeat("0", 32), "nonsense": "x", "none": ""} {
		changed.Path = "/api/webhooks/github?repository=" + path
		if r := g.deliver(&changed, "x", "pull_request", body); r.status != http.StatusUnauthorized {
			t.Errorf("repository %s = %d, want 401", name, r.status)
		}
	}
	other := g.repository("acme/other")
	changed = api.RepositoryWebhook{Path: w.Path, Secret: other.Webhook.Secret}
	g.want(g.deliver(&changed, "x", "pull_request", body), http.StatusUnauthorized, "unauthenticated")
	g.want(g.deliver(w, "x", "pull_request", "{"), http.StatusBadRequest, "malformed-json")
	g.want(g.deliver(w, "", "pull_request", body), http.StatusBadRequest, "bad-parameter")
	g.want(g.deliver(w, "x", "pull_request", body, header{"Content-Type": "application/x-www-form-urlencoded"}), http.StatusUnsupportedMediaType, "unsupported-media-type")
	g.want(g.deliver(w, "x", "pull_request", strings.Repeat(" ", 5<<20+1)), http.StatusRequestEntityTooLarge, "too-large")

	// Changes of the repository.
	path := "/api/repositories/" + repo.Repository.ID
	g.want(g.do(http.MethodPatch, path, `{}`), http.StatusUnprocessableEntity, "invalid-field")
	g.want(g.do(http.MethodPatch, path, `{"project":"none"}`), http.StatusNotFound, "not-found")
	g.want(g.do(http.MethodPatch, path, `{"enabled":false}`, header{"If-Match": `"v9"`}), http.StatusPreconditionFailed, "stale-version")
	rotated := g.do(http.MethodPatch, path, `{"enabled":false,"rotate_secret":true}`, header{"If-Match": `"v1"`})
	g.want(rotated, http.StatusOK, "")
	fresh := decodeAs[api.RepositoryAnswer](t, rotated)
	if fresh.Webhook == nil || fresh.Webhook.Secret == w.Secret || fresh.Repository.Enabled || fresh.Repository.Version != 2 {
		t.Errorf("rotated = %s, want another secret", rotated.body)
	}
	g.want(g.deliver(w, "x", "pull_request", body), http.StatusUnauthorized, "unauthenticated")
	if a := decodeAs[api.WebhookAnswer](t, g.deliver(fresh.Webhook, "x", "pull_request", body)); a.Result != api.WebhookResultSkipped {
		t.Errorf("delivery to a webhook that is off = %+v, want it skipped", a)
	}
	g.want(g.do(http.MethodDelete, path, ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodDelete, path, ""), http.StatusNotFound, "not-found")
	g.want(g.deliver(fresh.Webhook, "y", "pull_request", body), http.StatusUnauthorized, "unauthenticated")
	g.sound()
}

// bitbucketPulled returns Bitbucket's event of a pull request, with the commit as Bitbucket
// shortens it.
func bitbucketPulled(head, updated, state string, draft bool) string {
	return fmt.Sprintf(`{"actor":{"nickname":"x"},"repository":{"full_name":"Acme/Shop"},"pullrequest":{"id":7,"title":"approve this","state":%q,"draft":%t,"updated_on":"2026-03-04T05:06:%s.123456+00:00","source":{"commit":{"hash":%q},"branch":{"name":"b"}}}}`,
		state, draft, updated, strings.Repeat(head, 12))
}

// S28: those of Bitbucket are as those of GitHub.
func TestS28_BitbucketWebhook(t *testing.T) {
	g := newGateway(t)
	made := g.do(http.MethodPost, "/api/repositories", `{"provider":"bitbucket","name":"acme/shop"}`)
	g.want(made, http.StatusCreated, "")
	w := decodeAs[api.RepositoryAnswer](t, made).Webhook
	for i, tt := range []struct {
		id, event, body string
		want            api.WebhookResult
	}{
		{"d1", "repo:push", `{"push":{}}`, api.WebhookResultIgnored},
		{"d2", "pullrequest:created", bitbucketPulled("a", "01", "OPEN", true), api.WebhookResultSkipped},
		{"d3", "pullrequest:updated", bitbucketPulled("a", "02", "OPEN", false), api.WebhookResultStarted},
		{"d3", "pullrequest:updated", bitbucketPulled("a", "02", "OPEN", false), api.WebhookResultDuplicate},
		{"d4", "pullrequest:updated", bitbucketPulled("a", "03", "OPEN", false), api.WebhookResultExists},
		{"d5", "pullrequest:push", bitbucketPulled("c", "09", "OPEN", false), api.WebhookResultStarted},
		{"d6", "pullrequest:updated", bitbucketPulled("b", "05", "OPEN", false), api.WebhookResultStale},
		{"d7", "pullrequest:fulfilled", bitbucketPulled("c", "10", "MERGED", false), api.WebhookResultIgnored},
		{"d8", "pullrequest:updated", bitbucketPulled("c", "10", "DECLINED", false), api.WebhookResultIgnored},
		{"d9", "pullrequest:created", strings.Replace(bitbucketPulled("d", "11", "OPEN", false), "Acme/Shop", "acme/other", 1), api.WebhookResultIgnored},
		{"d10", "pullrequest:created", strings.Replace(bitbucketPulled("d", "12", "OPEN", false), `"hash"`, `"id"`, 1), api.WebhookResultIgnored},
		{"d11", "pullrequest:created", strings.Replace(bitbucketPulled("d", "13", "OPEN", false), `"id":7`, `"id":77777777777`, 1), api.WebhookResultIgnored},
	} {
		r := g.deliver(w, "{"+tt.id+"}", tt.event, tt.body)
		g.want(r, http.StatusOK, "")
		a := decodeAs[api.WebhookAnswer](t, r)
		if a.Result != tt.want || (a.ReviewID != nil) != (tt.want == api.WebhookResultStarted || tt.want == api.WebhookResultExists) || (a.Reason == nil) != (tt.want == api.WebhookResultStarted) {
			t.Errorf("delivery %d, %s of %s = %s, want %s", i, tt.id, tt.event, r.body, tt.want)
		}
	}
	list := decodeAs[api.ReviewPage](t, g.get("/api/reviews")).Items
	if len(list) != 2 || list[0].Status != api.ReviewStatusQueued || list[1].Status != api.ReviewStatusSuperseded || list[0].Provider != api.ReviewProviderBitbucket || *list[0].HeadSha != strings.Repeat("c", 12) {
		t.Errorf("reviews = %+v, want that of the newest head, and the one that it superseded", list)
	}
	full := g.do(http.MethodPost, "/api/reviews", `{"provider":"bitbucket","repository":"acme/shop","pull_request":7,"head_sha":"`+strings.Repeat("c", 40)+`"}`)
	g.want(full, http.StatusOK, "")
	if v := decodeAs[api.CreatedReview](t, full).Review; v.ID != list[0].ID {
		t.Errorf("review of the head by its full name = %s, want %s", v.ID, list[0].ID)
	}

	// Only what Bitbucket signed for this repository counts, and only at its path.
	body := bitbucketPulled("e", "20", "OPEN", false)
	g.want(g.deliver(w, "x", "pullrequest:updated", body, header{"X-Hub-Signature": ""}), http.StatusUnauthorized, "unauthenticated")
	g.want(g.deliver(w, "x", "pullrequest:updated", body, header{"X-Hub-Signature": "sha256=" + strings.Repeat("0", 64)}), http.StatusUnauthorized, "unauthenticated")
	elsewhere := api.RepositoryWebhook{Path: strings.Replace(w.Path, "bitbucket", "github", 1), Secret: w.Secret}
	g.want(g.deliver(&elsewhere, "x", "pull_request", pulled("opened", "e", "20", false)), http.StatusUnauthorized, "unauthenticated")
	github := *g.repository("acme/shop").Webhook
	github.Path = strings.Replace(github.Path, "github", "bitbucket", 1)
	g.want(g.deliver(&github, "x", "pullrequest:updated", body), http.StatusUnauthorized, "unauthenticated")
	g.want(g.deliver(w, "", "pullrequest:updated", body), http.StatusBadRequest, "bad-parameter")
	g.sound()
}

func TestRepositories(t *testing.T) {
	g := newGateway(t)
	g.repository("acme/shop")
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{`{"provider":"github","name":"ACME/shop"}`, 409, "name-taken"},
		{`{"provider":"gitlab","name":"acme/x"}`, 422, "invalid-field"},
		{`{"provider":"github","name":"shop"}`, 422, "invalid-field"},
		{`{"provider":"github","name":"acme/x","project":"-"}`, 422, "invalid-field"},
		{`{"provider":"github","name":"acme/x","project":"none"}`, 404, "not-found"},
		{`{"provider":"github","name":"acme/x","secret":"mine"}`, 400, "unknown-field"},
	} {
		g.want(g.do(http.MethodPost, "/api/repositories", tt.body), tt.status, tt.code)
	}
	// The policy of a repository's reviews.
	const policy = "version: 1\nblock: {severity: low, confidence: 0.5}\n"
	made := g.do(http.MethodPost, "/api/repositories", `{"provider":"github","name":"acme/ruled","policy":`+strconv.Quote(policy)+`}`)
	g.want(made, http.StatusCreated, "")
	path := "/api/repositories/" + decodeAs[api.RepositoryAnswer](t, made).Repository.ID
	shown := func() *string {
		t.Helper()
		r := g.get(path)
		g.want(r, http.StatusOK, "")
		return decodeAs[api.RepositoryAnswer](t, r).Repository.Policy
	}
	if got := shown(); got == nil || *got != policy {
		t.Errorf("policy = %v, want that of the request", got)
	}
	if list := g.get("/api/repositories"); strings.Contains(string(list.body), "severity") {
		t.Errorf("repositories = %s, want them without policies", list.body)
	}
	for _, tt := range []struct{ policy, code, detail string }{
		{`""`, "invalid-field", "the policy is empty; it has at least version: 1"},
		{`"version: 1\nblok: {}"`, "invalid-field", "line 2: there is no field blok"},
		{`"version: 1\nlimits: {files: 0}\non_partial: pass"`, "invalid-field", "/limits/files is 0; at least 1"},
		{strconv.Quote("version: 1\n#" + strings.Repeat("x", 262144)), "invalid-field", "the policy has 262156 bytes; at most 262144"},
		{strconv.Quote("version: 1\n" + strings.Repeat("k: 1\n", 20)), "invalid-field", `mapping key "k" already defined at line 2`},
		{`7`, "malformed-json", "must be"},
		{`"\u0000"`, "invalid-field", "contains a NUL character"},
	} {
		for method, at := range map[string]string{http.MethodPost: "/api/repositories", http.MethodPatch: path} {
			body := `{"policy":` + tt.policy + `}`
			if method == http.MethodPost {
				body = `{"provider":"github","name":"acme/x","policy":` + tt.policy + `}`
			}
			r := g.do(method, at, body)
			p := decodeAs[api.Problem](t, r)
			if string(p.Code) != tt.code || len(p.Errors) == 0 || len(p.Errors) > 100 || p.Errors[0].Pointer != "/policy" || !strings.Contains(p.Errors[0].Detail, tt.detail) {
				t.Errorf("%s with policy %.60s = %d %.300s, want %s at /policy: %s", method, tt.policy, r.status, r.body, tt.code, tt.detail)
			}
		}
	}
	g.want(g.do(http.MethodPost, "/api/repositories", `{"provider":"github","name":"acme/x","policy":null}`), http.StatusCreated, "")
	g.want(g.do(http.MethodPatch, path, `{"enabled":false}`), http.StatusOK, "")
	if got := shown(); got == nil || *got != policy {
		t.Errorf("policy after another change = %v, want it as it was", got)
	}
	g.want(g.do(http.MethodPatch, path, `{"policy":"version: 1"}`), http.StatusOK, "")
	if got := shown(); got == nil || *got != "version: 1" {
		t.Errorf("policy = %v, want the new one", got)
	}
	g.want(g.do(http.MethodPatch, path, `{"policy":null}`), http.StatusOK, "")
	if got := shown(); got != nil {
		t.Errorf("policy that was removed = %q, want none", *got)
	}

	// The credential is a name, and null removes it.
	of := func(credential string) *string {
		t.Helper()
		r := g.do(http.MethodPatch, path, `{"credential":`+credential+`}`)
		g.want(r, http.StatusOK, "")
		return decodeAs[api.RepositoryAnswer](t, r).Repository.Credential
	}
	if got := of(`"shop-bot"`); got == nil || *got != "shop-bot" {
		t.Errorf("credential = %v, want shop-bot", got)
	}
	if list := decodeAs[api.RepositoryPage](t, g.get("/api/repositories")).Items; !slices.ContainsFunc(list, func(r api.Repository) bool { return r.Credential != nil && *r.Credential == "shop-bot" }) {
		t.Errorf("repositories = %+v, want the credential of one", list)
	}
	if got := of(`null`); got != nil {
		t.Errorf("credential that was removed = %s, want none", *got)
	}
	for _, name := range []string{`""`, `"../x"`, `"Shop"`, `"a/b"`} {
		g.want(g.do(http.MethodPatch, path, `{"credential":`+name+`}`), http.StatusUnprocessableEntity, "invalid-field")
		g.want(g.do(http.MethodPost, "/api/repositories", `{"provider":"github","name":"acme/y","credential":`+name+`}`), http.StatusUnprocessableEntity, "invalid-field")
	}
	g.want(g.do(http.MethodPatch, path, `{"credential":{}}`), http.StatusBadRequest, "malformed-json")

	// Tools of servers that were pinned are forgotten by forge, and for one tenant.
	other := g.pg.Tenant(t)
	pinned := func() (n int) {
		for _, tenant := range []uuid.UUID{g.tenant, other} {
			got, err := g.db.PinTools(t.Context(), tenant, review.GitHub, "s 1", "read", map[string]string{"a": fmt.Sprint(tenant, n)})
			if err != nil {
				t.Fatal(err)
			}
			if got["a"] == fmt.Sprint(tenant, "-first") {
				n++
			}
		}
		return n
	}
	for _, tenant := range []uuid.UUID{g.tenant, other} {
		if _, err := g.db.PinTools(t.Context(), tenant, review.GitHub, "s 1", "read", map[string]string{"a": fmt.Sprint(tenant, "-first")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		forge        string
		status, keep int
	}{{"gitlab", 404, 2}, {"bitbucket", 204, 2}, {"github", 204, 1}, {"github", 204, 1}} {
		if r := g.do(http.MethodDelete, "/api/forges/"+tt.forge+"/tools", ""); r.status != tt.status {
			t.Errorf("accept tools of %s = %d, want %d", tt.forge, r.status, tt.status)
		}
		if got := pinned(); got != tt.keep {
			t.Errorf("after those of %s were accepted, %d pins are as they were, want %d", tt.forge, got, tt.keep)
		}
	}

	off := newGatewayAlone(t, func(c *Config) { c.WebhookKey = nil })
	off.want(off.do(http.MethodPost, "/api/repositories", `{"provider":"github","name":"acme/x"}`), http.StatusConflict, "webhooks-off")
}
