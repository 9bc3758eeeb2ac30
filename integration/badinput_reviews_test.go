package integration_test

import (
	"strings"

	"nofx.dev/gateway/api"
)

// reviews returns requests for reviews of nothing and of others, and about reviews and
// findings that are not there.
func reviews(mine, theirs things) (all []bad) {
	const start = "POST /api/reviews"
	add := func(name, request, headers, body string, status int, code api.ProblemCode, pointer string) {
		all = append(all, bad{name, request, headers, body, status, code, pointer})
	}
	refused := func(name, body, pointer string) { add("review of "+name, start, "", body, 422, field, pointer) }
	diff := func(text, more string) string { return `{"provider":"diff","diff":"` + text + `"` + more + `}` }
	pull := func(more string) string {
		return `{"provider":"github","repository":"acme/shop","pull_request":7` + more + `}`
	}
	const good = `--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n`
	refused("nothing", `{}`, "/provider")
	refused("null", `null`, "/provider")
	refused("no provider that there is", `{"provider":"gitlab"}`, "/provider")
	refused("a workspace", `{"provider":"workspace"}`, "/provider")
	refused("no diff", `{"provider":"diff"}`, "/diff")
	refused("an empty diff", diff("", ""), "/diff")
	refused("blanks", diff(` \n\t`, ""), "/diff")
	refused("prose", diff(`please approve`, ""), "/diff")
	refused("half a header", diff(`+++ b/x\n@@ -1 +1 @@\n`, ""), "/diff")
	refused("a diff with NUL", diff(`--- a/x\n+++ b/x\u0000`, ""), "/diff")
	refused("a diff and an artifact", diff(good, `,"artifact_id":"`+mine.artifact+`"`), "/diff")
	refused("a diff with a head", diff(good, `,"head_sha":"`+strings.Repeat("a", 40)+`"`), "/head_sha")
	refused("a diff of a pull request of nothing", diff(good, `,"pull_request":1`), "/repository")
	refused("a neighbour's artifact", `{"provider":"diff","artifact_id":"`+theirs.artifact+`"}`, "/artifact_id")
	refused("nobody's artifact", `{"provider":"diff","artifact_id":"art_`+strings.Repeat("0", 32)+`"}`, "/artifact_id")
	refused("a run as artifact", `{"provider":"diff","artifact_id":"`+mine.run+`"}`, "/artifact_id")
	refused("no pull request", `{"provider":"github","repository":"acme/shop"}`, "/pull_request")
	refused("pull request 0", `{"provider":"github","repository":"acme/shop","pull_request":0}`, "/pull_request")
	refused("a huge pull request", `{"provider":"bitbucket","repository":"acme/shop","pull_request":99999999999}`, "/pull_request")
	for _, name := range []string{"", "shop", "acme/shop/x", "acme/", "/shop", "../..x/", "acme/sh op", "acme/shop\\u202e", "https://github.com/acme/shop"} {
		refused("the repository "+name, `{"provider":"github","repository":"`+name+`","pull_request":7}`, "/repository")
	}
	for _, head := range []string{"", "abc", strings.Repeat("A", 40), strings.Repeat("a", 41), "main", strings.Repeat("a", 39) + "\\n"} {
		refused("the head "+head, pull(`,"head_sha":"`+head+`"`), "/head_sha")
	}
	refused("a pull request with a diff", pull(`,"diff":"`+good+`"`), "/diff")
	add("pull request as text", start, "", `{"provider":"github","repository":"acme/shop","pull_request":"7"}`, 400, malformed, "/pull_request")
	add("dry run as text", start, "", pull(`,"dry_run":"yes"`), 400, malformed, "/dry_run")
	add("a verdict of one's own", start, "", pull(`,"verdict":"passed"`), 400, unknown, "/verdict")
	add("a policy of one's own", start, "", pull(`,"policy":{}`), 400, unknown, "/policy")
	add("review in no project", start, "X-Project-Id: nothing", pull(""), 404, notFound, "")
	add("review of a large diff", start, "", diff(strings.Repeat("x", 1<<20), ""), 413, large413, "")
	for _, query := range []string{"repository=shop", "pull_request=x", "status=asleep", "verdict=pending", "run=x"} {
		name, _, _ := strings.Cut(query, "=")
		add("reviews of "+query, "GET /api/reviews?"+query, "", "", 400, parameter, "/"+name)
	}
	add("reviews from nowhere", "GET /api/reviews?cursor=x", "", "", 400, cursor, "")
	add("metrics of a century", "GET /api/review-metrics?since=1990-01-01T00:00:00Z", "", "", 400, parameter, "/since")
	add("metrics backwards", "GET /api/review-metrics?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", "", "", 400, parameter, "/since")

	unknownField, unknown := unknown, strings.Repeat("0", 31)+"1"
	for who, id := range map[string]string{"nobody's": "rev_" + unknown, "a run as": mine.run, "nonsense as": "rev_x"} {
		of := "/api/reviews/" + id
		add(who+" review", "GET "+of, "", "", 404, notFound, "")
		add(who+" review's findings", "GET "+of+"/findings", "", "", 404, notFound, "")
		add(who+" review's artifacts", "GET "+of+"/artifacts", "", "", 404, notFound, "")
		add(who+" review's artifact", "GET "+of+"/artifact?format=sarif", "", "", 404, notFound, "")
		add(who+" review again", "POST "+of+"/rerun", "", `{}`, 404, notFound, "")
	}
	add("a wait for ever", "GET /api/reviews/rev_"+unknown+"?wait_s=26", "", "", 400, parameter, "/wait_s")
	add("an artifact as pdf", "GET /api/reviews/rev_"+unknown+"/artifact?format=pdf", "", "", 400, parameter, "/format")
	add("a rerun that reuses all", "POST /api/reviews/rev_"+unknown+"/rerun", "", `{"reuse":"all"}`, 422, field, "/reuse")
	for who, id := range map[string]string{"nobody's": "find_" + unknown, "a run as": mine.run} {
		of := "/api/findings/" + id
		add(who+" finding", "GET "+of, "", "", 404, notFound, "")
		add(who+" finding resolved", "POST "+of+"/resolve", "", `{}`, 404, notFound, "")
		add(who+" finding dismissed", "POST "+of+"/dismiss", "", `{"reason":"x"}`, 404, notFound, "")
		add(who+" finding reopened", "POST "+of+"/reopen", "", `{"reason":"x"}`, 404, notFound, "")
	}
	at := "POST /api/findings/find_" + unknown
	add("dismissal without a reason", at+"/dismiss", "", `{}`, 422, noReason, "/reason")
	add("dismissal with a blank reason", at+"/dismiss", "", `{"reason":" "}`, 422, noReason, "/reason")
	add("dismissal with a long reason", at+"/dismiss", "", `{"reason":"`+strings.Repeat("x", 2049)+`"}`, 422, field, "/reason")
	add("dismissal of everything", at+"/dismiss", "", `{"reason":"x","scope":"repository"}`, 422, field, "/scope")
	add("dismissal in the past", at+"/dismiss", "", `{"reason":"x","expires_at":"2020-01-01T00:00:00Z"}`, 422, field, "/expires_at")
	add("dismissal until some day", at+"/dismiss", "", `{"reason":"x","expires_at":"some day"}`, 400, malformed, "/expires_at")
	add("dismissal of a weak tag", at+"/dismiss", `If-Match: W/"v1"`, `{"reason":"x"}`, 400, parameter, "/If-Match")
	add("reopening without a reason", at+"/reopen", "", `{}`, 422, noReason, "/reason")

	const bind = "POST /api/repositories"
	add("repository of nobody", bind, "", `{}`, 422, field, "/provider")
	add("repository of another forge", bind, "", `{"provider":"gitlab","name":"acme/shop"}`, 422, field, "/provider")
	add("repository without an owner", bind, "", `{"provider":"github","name":"shop"}`, 422, field, "/name")
	add("repository with a secret of its own", bind, "", `{"provider":"github","name":"acme/shop","secret":"x"}`, 400, unknownField, "/secret")
	add("repository in a project that cannot be", bind, "", `{"provider":"github","name":"acme/shop","project":"No"}`, 422, field, "/project")
	add("repository with a policy of nothing", bind, "", `{"provider":"github","name":"acme/shop","policy":"version: 2"}`, 422, field, "/policy")
	add("repository with a policy that is no text", bind, "", `{"provider":"github","name":"acme/shop","policy":{"version":1}}`, 400, malformed, "/policy")
	add("nobody's repository", "PATCH /api/repositories/repo_"+unknown, "", `{"enabled":false}`, 404, notFound, "")
	add("nobody's repository forgotten", "DELETE /api/repositories/repo_"+unknown, "", "", 404, notFound, "")
	add("a change of nothing", "PATCH /api/repositories/repo_"+unknown, "", `{}`, 422, field, "")
	add("a webhook of nobody", "POST /api/webhooks/github?repository=repo_"+unknown, "X-Hub-Signature-256: sha256="+strings.Repeat("0", 64), `{}`, 401, anonymous, "")
	add("a webhook without a repository", "POST /api/webhooks/github", "", `{}`, 401, anonymous, "")
	add("a webhook of another forge", "POST /api/webhooks/bitbucket?repository=repo_"+unknown, "X-Hub-Signature: sha256="+strings.Repeat("0", 64), `{}`, 401, anonymous, "")
	add("a webhook with a question", "POST /api/webhooks/github?x=1", "", `{}`, 400, parameter, "/x")
	return all
}
