package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
)

// operation is a route of the contract with all that the gateway knows about it.
type operation struct {
	id     string // operationId
	method string
	path   string // as in the contract
	rule   rule
	handle func(echo.Context, *identity.Principal) error
	// streams reports whether a request will be answered by a stream, which has limits of
	// its own.
	streams func(*http.Request) bool
	once    bool          // it accepts an Idempotency-Key
	event   string        // machine and event that it causes, as run.cancel; refusals list the possible ones
	verb    string        // what clients call the event, if not by its name
	probe   bool          // it is called every few seconds, and logged at a lower level
	timeout time.Duration // of its handler; 0: handlerTimeout
	signed  bool          // its handler checks the signature of the body instead of a key
	// errors is the form of its errors; nil is asProblem. All rows of a path have the same
	// one, which is also the form of 405.
	errors errorForm
}

// rule is the condition for calling an operation (SECURITY.md §3), as x-nofx-role and
// x-nofx-scope of the contract state it: a least role for people, a scope for services.
// The zero rule is a mistake of the table.
type rule struct {
	public bool     // no key is needed
	anyKey bool     // any valid key will do
	role   api.Role // the least role of people
	scope  string   // the scope that a service needs; empty: services may not call it
}

// operations returns the routes that are served; a route without a row is not served.
func (s *Server) operations() []operation {
	get, post, del := http.MethodGet, http.MethodPost, http.MethodDelete
	public, anyKey := rule{public: true}, rule{anyKey: true}
	viewer := func(scope string) rule { return rule{role: api.RoleViewer, scope: scope} }
	operator := func(scope string) rule { return rule{role: api.RoleOperator, scope: scope} }
	supervisor, admin := rule{role: api.RoleSupervisor}, rule{role: api.RoleAdmin}
	return []operation{
		{id: "createRun", method: post, path: "/api/runs", rule: operator("runs:write"), handle: s.createRun, once: true},
		{id: "listRuns", method: get, path: "/api/runs", rule: viewer("runs:read"), handle: s.listRuns},
		{id: "previewRun", method: post, path: "/api/runs/preview", rule: viewer("runs:read"), handle: s.previewRun},
		{id: "getRun", method: get, path: "/api/runs/{run_id}", rule: viewer("runs:read"), handle: s.getRun},
		{id: "getTrace", method: get, path: "/api/traces/{trace_id}", rule: viewer("runs:read"), handle: s.getTrace},
		{id: "cancelRun", method: post, path: "/api/runs/{run_id}/cancel", rule: operator("runs:write"), handle: s.cancelRun, once: true, event: "run.cancel"},
		{id: "pauseRun", method: post, path: "/api/runs/{run_id}/pause", rule: operator("runs:write"), handle: s.pauseRun, once: true, event: "run.pause"},
		{id: "resumeRun", method: post, path: "/api/runs/{run_id}/resume", rule: operator("runs:write"), handle: s.resumeRun, once: true, event: "run.resume"},
		{id: "retryRun", method: post, path: "/api/runs/{run_id}/retry", rule: operator("runs:write"), handle: s.retryRun, once: true, event: "run.retry"},
		{id: "rerunRun", method: post, path: "/api/runs/{run_id}/rerun", rule: operator("runs:write"), handle: s.rerunRun, once: true},
		{id: "createBranches", method: post, path: "/api/runs/{run_id}/branches", rule: operator("runs:write"), handle: s.createBranches, once: true},
		{id: "getLineage", method: get, path: "/api/runs/{run_id}/lineage", rule: viewer("runs:read"), handle: s.getLineage},
		{id: "compareRuns", method: get, path: "/api/compare", rule: viewer("runs:read"), handle: s.compareRuns},

		{id: "listSteps", method: get, path: "/api/runs/{run_id}/steps", rule: viewer("steps:read"), handle: s.listSteps},
		{id: "getTimeline", method: get, path: "/api/runs/{run_id}/timeline", rule: viewer("steps:read"), handle: s.getTimeline},
		{id: "getStep", method: get, path: "/api/steps/{step_id}", rule: viewer("steps:read"), handle: s.getStep},
		{id: "retryStep", method: post, path: "/api/steps/{step_id}/retry", rule: operator("steps:write"), handle: s.retryStep, once: true, event: "step.retry"},
		{id: "getStepLogs", method: get, path: "/api/steps/{step_id}/logs", rule: viewer("steps:read"), handle: s.getStepLogs, streams: followsLog, timeout: logTimeout},

		{id: "listRunEvents", method: get, path: "/api/runs/{run_id}/events", rule: viewer("events:read"), handle: s.listRunEvents, streams: acceptsStream},
		{id: "listEvents", method: get, path: "/api/events", rule: viewer("events:read"), handle: s.listEvents, streams: acceptsStream},

		{id: "createStreamTicket", method: post, path: "/api/stream-tickets", rule: viewer("events:read"), handle: s.createStreamTicket},

		{id: "sendSignal", method: post, path: "/api/signals", rule: operator("steps:write"), handle: s.sendSignal, once: true},
		{id: "listDeadLetters", method: get, path: "/api/dead-letters", rule: viewer("steps:read"), handle: s.listDeadLetters},
		{id: "requeueDeadLetters", method: post, path: "/api/dead-letters/requeue", rule: operator("steps:write"), handle: s.requeueDeadLetters},
		{id: "requeueDeadLetter", method: post, path: "/api/dead-letters/{step_id}/requeue", rule: operator("steps:write"), handle: s.requeueDeadLetter, once: true, event: "step.retry"},

		{id: "listGates", method: get, path: "/api/gates", rule: viewer("gates:read"), handle: s.listGates},
		{id: "getGate", method: get, path: "/api/gates/{gate_id}", rule: viewer("gates:read"), handle: s.getGate},
		{id: "approveGate", method: post, path: "/api/gates/{gate_id}/approve", rule: supervisor, handle: s.approveGate, event: "gate.approve"},
		{id: "rejectGate", method: post, path: "/api/gates/{gate_id}/reject", rule: supervisor, handle: s.rejectGate, event: "gate.reject"},
		{id: "waiveGate", method: post, path: "/api/gates/{gate_id}/waive", rule: supervisor, handle: s.waiveGate, event: "gate.waive"},

		{id: "listCheckpoints", method: get, path: "/api/runs/{run_id}/checkpoints", rule: viewer("checkpoints:read"), handle: s.listCheckpoints},
		{id: "getCheckpoint", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}", rule: viewer("checkpoints:read"), handle: s.getCheckpoint},
		{id: "createCheckpoint", method: post, path: "/api/runs/{run_id}/checkpoints", rule: operator("checkpoints:write"), handle: s.createCheckpoint, once: true},
		{id: "archiveCheckpoint", method: post, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}/archive", rule: viewer("checkpoints:read"), handle: s.archiveCheckpoint, once: true},
		{id: "markCheckpoint", method: http.MethodPatch, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}", rule: operator("checkpoints:write"), handle: s.markCheckpoint},
		{id: "bisectRun", method: post, path: "/api/runs/{run_id}/bisect", rule: operator("checkpoints:write"), handle: s.bisectRun, once: true},
		{id: "getBisect", method: get, path: "/api/bisects/{bisect_id}", rule: viewer("checkpoints:read"), handle: s.getBisect},
		{id: "diffCheckpoint", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}/diff", rule: viewer("checkpoints:read"), handle: s.diffCheckpoint},
		{id: "listCheckpointFiles", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}/files", rule: viewer("checkpoints:read"), handle: s.listCheckpointFiles},
		{id: "getCheckpointFile", method: get, path: "/api/runs/{run_id}/checkpoints/{checkpoint_id}/file", rule: viewer("checkpoints:read"), handle: s.getCheckpointFile},

		{id: "listMerges", method: get, path: "/api/runs/{run_id}/merges", rule: viewer("checkpoints:read"), handle: s.listMerges},
		{id: "startMerge", method: post, path: "/api/runs/{run_id}/merges", rule: operator("checkpoints:write"), handle: s.startMerge, once: true},
		{id: "getMerge", method: get, path: "/api/merges/{merge_id}", rule: viewer("checkpoints:read"), handle: s.getMerge},
		{id: "resolveMerge", method: http.MethodPut, path: "/api/merges/{merge_id}/resolutions", rule: operator("checkpoints:write"), handle: s.resolveMerge, event: "merge.resolve_all", verb: "resolve"},
		{id: "commitMerge", method: post, path: "/api/merges/{merge_id}/commit", rule: operator("runs:write"), handle: s.commitMerge, once: true, event: "merge.commit"},
		{id: "abandonMerge", method: post, path: "/api/merges/{merge_id}/abandon", rule: operator("checkpoints:write"), handle: s.abandonMerge, event: "merge.abandon"},

		{id: "listArtifacts", method: get, path: "/api/runs/{run_id}/artifacts", rule: viewer("artifacts:read"), handle: s.listArtifacts},
		{id: "createArtifact", method: post, path: "/api/artifacts", rule: operator("artifacts:write"), handle: s.createArtifact, once: true},
		{id: "getArtifact", method: get, path: "/api/artifacts/{artifact_id}", rule: viewer("artifacts:read"), handle: s.getArtifact},
		{id: "completeArtifact", method: post, path: "/api/artifacts/{artifact_id}/complete", rule: operator("artifacts:write"), handle: s.completeArtifact},

		{id: "createReview", method: post, path: "/api/reviews", rule: operator("reviews:write"), handle: s.createReview, once: true},
		{id: "listReviews", method: get, path: "/api/reviews", rule: viewer("reviews:read"), handle: s.listReviews},
		{id: "getReview", method: get, path: "/api/reviews/{review_id}", rule: viewer("reviews:read"), handle: s.getReview},
		{id: "rerunReview", method: post, path: "/api/reviews/{review_id}/rerun", rule: operator("reviews:write"), handle: s.rerunReview, once: true},
		{id: "listReviewFindings", method: get, path: "/api/reviews/{review_id}/findings", rule: viewer("reviews:read"), handle: s.listReviewFindings},
		{id: "listReviewArtifacts", method: get, path: "/api/reviews/{review_id}/artifacts", rule: viewer("reviews:read"), handle: s.listReviewArtifacts},
		{id: "getReviewArtifact", method: get, path: "/api/reviews/{review_id}/artifact", rule: viewer("reviews:read"), handle: s.getReviewArtifact},
		{id: "getFinding", method: get, path: "/api/findings/{finding_id}", rule: viewer("reviews:read"), handle: s.getFinding},
		{id: "resolveFinding", method: post, path: "/api/findings/{finding_id}/resolve", rule: operator("reviews:write"), handle: s.resolveFinding, event: "finding.resolve"},
		{id: "dismissFinding", method: post, path: "/api/findings/{finding_id}/dismiss", rule: operator("reviews:write"), handle: s.dismissFinding, event: "finding.dismiss"},
		{id: "reopenFinding", method: post, path: "/api/findings/{finding_id}/reopen", rule: operator("reviews:write"), handle: s.reopenFinding, event: "finding.reopen"},
		{id: "getReviewMetrics", method: get, path: "/api/review-metrics", rule: viewer("reviews:read"), handle: s.getReviewMetrics},
		{id: "listRepositories", method: get, path: "/api/repositories", rule: admin, handle: s.listRepositories},
		{id: "createRepository", method: post, path: "/api/repositories", rule: admin, handle: s.createRepository},
		{id: "getRepository", method: get, path: "/api/repositories/{repository_id}", rule: admin, handle: s.getRepository},
		{id: "changeRepository", method: http.MethodPatch, path: "/api/repositories/{repository_id}", rule: admin, handle: s.changeRepository},
		{id: "deleteRepository", method: del, path: "/api/repositories/{repository_id}", rule: admin, handle: s.deleteRepository},
		{id: "acceptTools", method: del, path: "/api/forges/{provider}/tools", rule: admin, handle: s.acceptTools},
		{id: "receiveGitHubWebhook", method: post, path: "/api/webhooks/github", rule: public, handle: s.receiveWebhook(gitHubHooks), signed: true},
		{id: "receiveBitbucketWebhook", method: post, path: "/api/webhooks/bitbucket", rule: public, handle: s.receiveWebhook(bitbucketHooks), signed: true},

		{id: "listAPIKeys", method: get, path: "/api/api-keys", rule: admin, handle: s.listAPIKeys},
		{id: "createAPIKey", method: post, path: "/api/api-keys", rule: admin, handle: s.createAPIKey},
		{id: "revokeAPIKey", method: del, path: "/api/api-keys/{key_id}", rule: admin, handle: s.revokeAPIKey},
		{id: "listProjects", method: get, path: "/api/projects", rule: admin, handle: s.listProjects},
		{id: "createProject", method: post, path: "/api/projects", rule: admin, handle: s.createProject},
		{id: "deleteProject", method: del, path: "/api/projects/{project_slug}", rule: admin, handle: s.deleteProject},
		{id: "listSecrets", method: get, path: "/api/secrets", rule: admin, handle: s.listSecrets},
		{id: "getSecret", method: get, path: "/api/secrets/{secret_name}", rule: admin, handle: s.getSecret},
		{id: "setSecret", method: http.MethodPut, path: "/api/secrets/{secret_name}", rule: admin, handle: s.setSecret},
		{id: "deleteSecret", method: del, path: "/api/secrets/{secret_name}", rule: admin, handle: s.deleteSecret},
		{id: "getSettings", method: get, path: "/api/settings", rule: admin, handle: s.getSettings},
		{id: "changeSettings", method: http.MethodPatch, path: "/api/settings", rule: admin, handle: s.changeSettings},
		{id: "listOIDCTrusts", method: get, path: "/api/oidc-trusts", rule: admin, handle: s.listOIDCTrusts},
		{id: "createOIDCTrust", method: post, path: "/api/oidc-trusts", rule: admin, handle: s.createOIDCTrust},
		{id: "deleteOIDCTrust", method: del, path: "/api/oidc-trusts/{trust_id}", rule: admin, handle: s.deleteOIDCTrust},
		{id: "listSubjects", method: get, path: "/api/subjects", rule: admin, handle: s.listSubjects},
		{id: "revokeSubject", method: post, path: "/api/subjects/{subject}/revoke", rule: admin, handle: s.revokeSubject},
		{id: "listAlertEndpoints", method: get, path: "/api/alert-endpoints", rule: admin, handle: s.listAlertEndpoints},
		{id: "createAlertEndpoint", method: post, path: "/api/alert-endpoints", rule: admin, handle: s.createAlertEndpoint},
		{id: "getAlertEndpoint", method: get, path: "/api/alert-endpoints/{alert_id}", rule: admin, handle: s.getAlertEndpoint},
		{id: "changeAlertEndpoint", method: http.MethodPatch, path: "/api/alert-endpoints/{alert_id}", rule: admin, handle: s.changeAlertEndpoint},
		{id: "deleteAlertEndpoint", method: del, path: "/api/alert-endpoints/{alert_id}", rule: admin, handle: s.deleteAlertEndpoint},
		{id: "rotateAlertSecret", method: post, path: "/api/alert-endpoints/{alert_id}/rotate-secret", rule: admin, handle: s.rotateAlertSecret},
		{id: "listAlertDeliveries", method: get, path: "/api/alert-endpoints/{alert_id}/deliveries", rule: admin, handle: s.listAlertDeliveries},
		{id: "redeliverAlert", method: post, path: "/api/alert-endpoints/{alert_id}/deliveries/{message_id}/redeliver", rule: admin, handle: s.redeliverAlert},
		{id: "listAudit", method: get, path: "/api/audit", rule: admin, handle: s.listAudit},
		{id: "listAuditAnchors", method: get, path: "/api/audit/anchors", rule: admin, handle: s.listAuditAnchors},
		{id: "whoami", method: get, path: "/api/whoami", rule: anyKey, handle: s.whoami},

		{id: "collectGarbage", method: post, path: "/api/gc", rule: admin, handle: s.collectGarbage, once: true},
		{id: "verifyStorage", method: post, path: "/api/storage/verify", rule: admin, handle: s.verifyStorage, once: true},
		{id: "purgeBlob", method: post, path: "/api/blobs/{sha256}/purge", rule: admin, handle: s.purgeBlob, once: true},

		{id: "listQueues", method: get, path: "/api/queues", rule: viewer("queues:read"), handle: s.listQueues},
		{id: "pauseQueue", method: post, path: "/api/queues/{queue_name}/pause", rule: admin, handle: s.pauseQueue},
		{id: "resumeQueue", method: post, path: "/api/queues/{queue_name}/resume", rule: admin, handle: s.resumeQueue},
		{id: "listWorkers", method: get, path: "/api/workers", rule: viewer("workers:read"), handle: s.listWorkers},
		{id: "healthz", method: get, path: "/healthz", rule: public, handle: s.healthz, probe: true},
		{id: "readyz", method: get, path: "/readyz", rule: public, handle: s.readyz, probe: true},
		{id: "getContract", method: get, path: "/api/openapi.yaml", rule: public, handle: s.getContract},
		{id: "getDocs", method: get, path: "/api/docs", rule: public, handle: s.getDocs},
		{id: "getDocsAsset", method: get, path: "/api/docs/{asset}", rule: public, handle: s.getDocsAsset},
	}
}

// serve adds a row to the routes. It refuses a row without a rule, which must be a decision,
// and a row with another form of errors than the first one of its path.
func (s *Server) serve(op operation) error {
	if op.rule == (rule{}) {
		return fmt.Errorf("operation %s (%s %s) has no rule", op.id, op.method, op.path)
	}
	path := strings.NewReplacer("{", ":", "}", "").Replace(op.path)
	if first, ok := s.routes[path]; !ok {
		s.routes[path] = op
	} else if (first.errors == nil) != (op.errors == nil) {
		return fmt.Errorf("operations %s and %s write the errors of %s differently", first.id, op.id, op.path)
	}
	if op.event != "" {
		_, event, _ := strings.Cut(op.event, ".")
		s.asked[op.event] = cmp.Or(op.verb, event)
	}
	if scope := op.rule.scope; scope != "" && !slices.Contains(s.scopes, scope) {
		s.scopes = append(s.scopes, scope)
		slices.Sort(s.scopes)
	}
	s.echo.Add(op.method, path, s.operate(op))
	if op.method == http.MethodGet {
		s.echo.Add(http.MethodHead, path, s.operate(op))
	}
	return nil
}
