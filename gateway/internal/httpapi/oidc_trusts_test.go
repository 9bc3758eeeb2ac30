package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

const aTrust = `{"repository":"acme/shop","repository_id":74,"repository_owner_id":65}`

// TestWorkflowsKeepToTheirRepository asks every operation that a scope of workflows opens
// for things of another repository, so that a new one joins by itself.
func TestWorkflowsKeepToTheirRepository(t *testing.T) {
	g, p := newPeople(t)
	shop := p.workflow(t, "acme/shop", "74")
	g.want(g.get("/api/whoami", shop), http.StatusForbidden, "forbidden")
	g.want(g.do(http.MethodPost, "/api/oidc-trusts", aTrust), http.StatusCreated, "")
	if me := decodeAs[api.Whoami](t, g.get("/api/whoami", shop)).Principal; me.Role != api.RoleService || me.Repository == nil || *me.Repository != "acme/shop" || !strings.HasPrefix(me.Subject, "oidc:") {
		t.Errorf("whoami = %+v, want the service of acme/shop", me)
	}
	pull := func(repository string, number int) string {
		return fmt.Sprintf(`{"provider":"github","repository":%q,"pull_request":%d,"head_sha":%q}`, repository, number, strings.Repeat("a", 40))
	}
	own := g.do(http.MethodPost, "/api/reviews", pull("acme/shop", 7), shop)
	g.want(own, http.StatusAccepted, "")
	mine := decodeAs[api.CreatedReview](t, own).Review
	if mine.CreatedBy == "" || mine.CreatedBy != decodeAs[api.Whoami](t, g.get("/api/whoami", shop)).Principal.Subject {
		t.Errorf("review is by %q, want the workflow", mine.CreatedBy)
	}
	for _, body := range []string{pull("acme/other", 7), strings.Replace(pull("acme/shop", 7), `"github"`, `"bitbucket"`, 1), posted(aDiff, ""), posted(aDiff, `,"repository":"acme/shop"`)} {
		r := g.do(http.MethodPost, "/api/reviews", body, shop)
		g.want(r, http.StatusForbidden, "forbidden")
	}
	// Another repository's, one of the same name elsewhere, and one of a diff, with findings.
	var foreign []api.Review
	var findings []string
	for i, body := range []string{pull("acme/other", 7), `{"provider":"bitbucket","repository":"acme/shop","pull_request":7,"head_sha":"aaaaaaaaaaaa"}`, posted(aDiff, `,"repository":"acme/shop"`)} {
		v := g.startReview(body).Review
		c, begun := g.beginReview(v)
		id := run.NewID()
		g.endReview(c, begun, postgres.ReviewEnd{Verdict: review.Failed, Occurrences: []postgres.Occurrence{occurrence(id, fmt.Sprintf("fp%d.a", i), review.High)}})
		foreign, findings = append(foreign, v), append(findings, run.FindingID.Format(id))
	}
	for _, op := range g.server.operations() {
		if !strings.HasPrefix(op.rule.scope, "reviews:") || confined[op.id] {
			continue
		}
		for i, v := range foreign {
			path := strings.NewReplacer("{review_id}", v.ID, "{finding_id}", findings[i]).Replace(op.path)
			body := ""
			if op.method == http.MethodPost && strings.Contains(op.path, "finding") {
				body = `{"reason":"x"}`
			}
			want := http.StatusNotFound
			if path == op.path {
				want = http.StatusForbidden // it is of all repositories
			}
			if r := g.do(op.method, path, body, shop); r.status != want {
				t.Errorf("%s of a %s of %s as a workflow of acme/shop on GitHub = %d %s, want %d", op.id, v.Provider, []string{"acme/other", "acme/shop", "acme/shop"}[i], r.status, r.body, want)
			}
		}
	}
	list := decodeAs[api.ReviewPage](t, g.get("/api/reviews", shop)).Items
	if len(list) != 1 || list[0].ID != mine.ID {
		t.Errorf("reviews = %+v, want the one of acme/shop on GitHub", list)
	}
	g.want(g.get("/api/reviews?repository=acme/other", shop), http.StatusBadRequest, "bad-parameter")
	g.want(g.get("/api/reviews/"+mine.ID, shop), http.StatusOK, "")
	g.want(g.get("/api/reviews/"+mine.ID+"/findings", shop), http.StatusOK, "")
	g.want(g.get("/api/runs/"+mine.RunID, shop), http.StatusForbidden, "forbidden")
	g.want(g.get("/api/reviews/"+foreign[0].ID), http.StatusOK, "")
}

// TestTrusts checks what a trust may be, and its life.
func TestTrusts(t *testing.T) {
	g := newGateway(t)
	whole := strings.Replace(aTrust, "}", `,"ref":"refs/heads/main","job_workflow_ref":"acme/ci/.github/workflows/r.yml@refs/heads/main","event_name":"push"}`, 1)
	r := g.do(http.MethodPost, "/api/oidc-trusts", whole)
	g.want(r, http.StatusCreated, "")
	made := decodeAs[api.OIDCTrustAnswer](t, r).Trust
	if made.RepositoryID != 74 || made.RepositoryOwnerID != 65 || made.Ref == nil || made.JobWorkflowRef == nil || made.EventName == nil || made.CreatedBy == "" {
		t.Errorf("trust = %s, want what was asked for", r.body)
	}
	g.want(g.do(http.MethodPost, "/api/oidc-trusts", whole), http.StatusConflict, "name-taken")
	g.want(g.do(http.MethodPost, "/api/oidc-trusts", aTrust), http.StatusCreated, "")
	g.want(g.do(http.MethodPost, "/api/oidc-trusts", aTrust), http.StatusConflict, "name-taken")
	page := decodeAs[api.OIDCTrustPage](t, g.get("/api/oidc-trusts?limit=1"))
	if len(page.Items) != 1 || page.NextCursor == nil {
		t.Fatalf("first page = %+v, want one trust and a cursor", page)
	}
	rest := decodeAs[api.OIDCTrustPage](t, g.get("/api/oidc-trusts?cursor="+*page.NextCursor))
	if len(rest.Items) != 1 || rest.Items[0].ID != made.ID || rest.NextCursor != nil {
		t.Errorf("second page = %+v, want the first trust", rest)
	}
	g.want(g.do(http.MethodDelete, "/api/oidc-trusts/"+made.ID, ""), http.StatusNoContent, "")
	g.want(g.do(http.MethodDelete, "/api/oidc-trusts/"+made.ID, ""), http.StatusNotFound, "not-found")
	for body, pointer := range map[string]string{
		`{"repository":"acme","repository_id":1,"repository_owner_id":1}`:                      "/repository",
		`{"repository":"acme/shop","repository_id":0,"repository_owner_id":1}`:                 "/repository_id",
		`{"repository":"acme/shop","repository_id":1,"repository_owner_id":-1}`:                "/repository_owner_id",
		strings.Replace(aTrust, "}", `,"ref":""}`, 1):                                          "/ref",
		strings.Replace(aTrust, "}", `,"event_name":"`+strings.Repeat("x", 65)+`"}`, 1):        "/event_name",
		strings.Replace(aTrust, "}", `,"job_workflow_ref":"`+strings.Repeat("x", 513)+`"}`, 1): "/job_workflow_ref",
	} {
		r := g.do(http.MethodPost, "/api/oidc-trusts", body)
		g.want(r, http.StatusUnprocessableEntity, "invalid-field")
		if p := decodeAs[api.Problem](t, r); len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: errors = %+v, want %s", body, p.Errors, pointer)
		}
	}
	for _, body := range []string{`{"repository":"acme/shop","repository_id":"74","repository_owner_id":65}`, `{"repository":"acme/shop","repository_id":1.5,"repository_owner_id":65}`} {
		if r := g.do(http.MethodPost, "/api/oidc-trusts", body); r.status != http.StatusBadRequest {
			t.Errorf("%s = %d, want 400", body, r.status)
		}
	}
}
