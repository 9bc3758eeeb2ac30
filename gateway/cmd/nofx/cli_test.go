package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/gateway/api"
)

const plan = `{"goal": "ship the fix", "steps": [{"name": "build", "tool": "bash", "inputs": {"script": "make"}}]}`

// script returns the answers of the test gateway in TestCommands, but for streams.
func script() map[string]http.HandlerFunc {
	d := detail()
	decided := func(status api.GateStatus) http.HandlerFunc {
		g := shipGate()
		g.Status, g.DecidedBy, g.DecidedByName, g.DecidedAt = status, ptr(bob), ptr("bob"), ptr(ago(1))
		return answer(http.StatusOK, api.GateAnswer{Gate: g})
	}
	runIn := func(status api.RunStatus) api.RunAnswer {
		r := d.Run
		r.Status = status
		return api.RunAnswer{Run: r}
	}
	letter := api.StepAnswer{Step: failedDetail().Steps[1], Run: failedDetail().Run}
	letter.Step.FailureClass, letter.Step.Reason = ptr(api.FailureClassExhausted), ptr("tool: exit code 1")
	requeued := letter
	requeued.Step.Status, requeued.Run.Status = api.StepStatusReady, api.RunStatusRunning
	shared := shipGate()
	shared.Quorum, shared.Approvals = ptr(2), []api.Approval{{By: bob, ByName: ptr("bob"), Decision: api.ApprovalDecisionApprove, At: ago(5)}}
	checkpoint := api.Checkpoint{ID: id("ckpt", 1), RunID: d.Run.ID, Seq: 1, Kind: api.CheckpointKindPost, StepID: ptr(id("step", 1)),
		Digest: digest(2), StateDigest: digest(3), TreeDigest: digest(4), Parents: []string{id("ckpt", 2)}, BytesNew: 3 << 20, CreatedAt: ago(52)}
	manual := checkpoint
	manual.Kind, manual.StepID, manual.Label, manual.Hold = api.CheckpointKindManual, nil, ptr("before the migration"), true
	probe := func(n int, o api.BisectProbeOutcome, exit, left int) api.BisectProbe {
		return api.BisectProbe{CheckpointID: id("ckpt", n), Outcome: o, ExitCode: exit, DurationMs: 1200, Left: left}
	}
	bisect := api.Bisect{ID: id("run", 9), RunID: d.Run.ID, Status: api.RunStatusRunning, Command: "go test ./...", Good: id("ckpt", 1), Bad: id("ckpt", 5), Candidates: 5,
		Probes: []api.BisectProbe{probe(1, api.BisectProbeOutcomeGood, 0, 4)}, CreatedAt: ago(9)}
	bisected := bisect
	bisected.Status, bisected.FinishedAt = api.RunStatusSucceeded, ptr(ago(1))
	bisected.Probes = append(bisected.Probes, probe(5, api.BisectProbeOutcomeBad, 1, 4), probe(3, api.BisectProbeOutcomeSkipped, 125, 4), probe(2, api.BisectProbeOutcomeGood, 0, 3), probe(4, api.BisectProbeOutcomeBad, 1, 2))
	bisected.LastGood, bisected.FirstBad, bisected.FirstBadRunID, bisected.FirstBadStepName = ptr(id("ckpt", 2)), ptr(id("ckpt", 4)), &d.Run.ID, ptr("unit")
	bisected.Suspects = []string{id("ckpt", 3), id("ckpt", 4)}
	key := api.APIKey{ID: id("key", 1), Name: "ci", Prefix: "nofx_live_0198", Role: api.RoleService, Scopes: []string{"runs:write"}, CreatedAt: ago(3600)}
	revoked := key
	revoked.ID, revoked.Role, revoked.Scopes, revoked.RevokedAt = id("key", 2), api.RoleAdmin, []string{}, ptr(ago(60))
	return map[string]http.HandlerFunc{
		"createRun":        answer(http.StatusCreated, api.CreatedRun{Run: d.Run, Steps: d.Steps}),
		"listAudit":        answer(http.StatusOK, auditLog()),
		"listAuditAnchors": answer(http.StatusOK, api.AuditAnchorList{Items: []api.AuditAnchor{{Day: "2026-03-03", Seq: 1, Hash: auditLog().Items[1].Hash, At: ago(90_000)}}}),
		"previewRun": answer(http.StatusOK, api.RunPreview{PlanDigest: digest(1),
			Plan:  api.Plan{Goal: "ship the fix", Steps: []api.PlanStep{{Name: "build", Tool: "bash"}, {Name: "unit", Tool: "gate:unit"}}},
			Graph: api.PlanGraph{Levels: [][]string{{"build"}, {"unit"}}, Edges: []api.PlanEdge{{Needs: "build", Step: "unit"}}}}),
		"listRuns":  answer(http.StatusOK, api.RunPage{Items: []api.Run{d.Run, failedDetail().Run, branchRun(3, "try")}, NextCursor: ptr("b2xk")}),
		"getRun":    answer(http.StatusOK, d),
		"cancelRun": answer(http.StatusOK, runIn(api.RunStatusCancelled)),
		"pauseRun":  answer(http.StatusOK, runIn(api.RunStatusPaused)),
		"resumeRun": answer(http.StatusOK, runIn(api.RunStatusWaiting)),
		"retryRun":  answer(http.StatusOK, runIn(api.RunStatusRunning)),
		"rerunRun":  answer(http.StatusCreated, api.CreatedRun{Run: d.Run, Steps: d.Steps}),
		"retryStep": answer(http.StatusOK, requeued),

		"sendSignal": answer(http.StatusCreated, map[string]any{"signal": map[string]any{"id": id("sig", 1), "key": "k", "taken": true}}),

		"listDeadLetters":    answer(http.StatusOK, api.DeadLetterPage{Items: []api.StepAnswer{letter}}),
		"requeueDeadLetter":  answer(http.StatusOK, requeued),
		"requeueDeadLetters": answer(http.StatusOK, api.Requeued{Requeued: []api.StepAnswer{}}),

		"createBranches": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			switch {
			case strings.Contains(string(body), `"dry_run"`):
				answer(http.StatusOK, branchPreview())(w, r)
			case strings.Contains(string(body), `"variants"`):
				answer(http.StatusCreated, api.CreatedBranches{Runs: []api.Run{branchRun(3, "small"), branchRun(4, "large")}})(w, r)
			default:
				answer(http.StatusCreated, api.CreatedBranches{Run: ptr(branchRun(3, "try")), Runs: []api.Run{branchRun(3, "try")}})(w, r)
			}
		},
		"compareRuns": answer(http.StatusOK, comparison()),
		"getLineage":  answer(http.StatusOK, lineage()),

		"getTrace":    answer(http.StatusOK, api.RunPage{Items: []api.Run{d.Run, failedDetail().Run}}),
		"getTimeline": answer(http.StatusOK, timeline()),
		"listQueues": answer(http.StatusOK, api.QueuePage{Items: []api.Queue{pausedQueue(), {Name: "step", Workers: 2, PausedForAll: true, Depth: api.QueueDepth{Running: 12, Ready: 10_000, More: true}, OldestAgeMs: 3000},
			func() api.Queue { q := pausedQueue(); q.Name, q.PausedForAll = "both", true; return q }()}}),
		"pauseQueue":  answer(http.StatusOK, api.QueueAnswer{Queue: pausedQueue()}),
		"resumeQueue": answer(http.StatusOK, api.QueueAnswer{Queue: api.Queue{Name: "review", Depth: api.QueueDepth{Ready: 3}, OldestAgeMs: 61_000}}),
		"listWorkers": answer(http.StatusOK, api.WorkerPage{Items: []api.Workers{
			{Workers: 3, Version: "v1.2.3", Status: api.WorkerStatusServing, Queues: []string{"review", "step"}, SlotsMax: 48, SandboxTier: 2},
			{Workers: 1, Version: "v1.2.3", Status: api.WorkerStatusServing, WaitsFor: ptr("storage"), Queues: []string{"step"}, SlotsMax: 16},
			{Workers: 1, Version: "v1.2.2", Status: api.WorkerStatusSilent, Queues: []string{"step"}, SlotsMax: 8}}}),

		"listGates": answer(http.StatusOK, api.GatePage{Items: []api.Gate{shipGate()}}),
		"getGate": func(w http.ResponseWriter, r *http.Request) {
			g := failedDetail().Gates[1]
			switch {
			case strings.Contains(r.URL.Path, id("gate", 3)):
				g = shared
			case strings.Contains(r.URL.Path, id("gate", 4)):
				g = expiredGate()
			}
			answer(http.StatusOK, api.GateAnswer{Gate: g})(w, r)
		},
		"approveGate": func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, id("gate", 3)) {
				answer(http.StatusOK, api.GateAnswer{Gate: shared})(w, r)
				return
			}
			decided(api.GateStatusPassed)(w, r)
		},
		"waiveGate": decided(api.GateStatusWaived),
		"rejectGate": func(w http.ResponseWriter, r *http.Request) {
			won := shipGate()
			won.Status, won.DecidedBy, won.DecidedAt = api.GateStatusPassed, ptr("carol"), ptr(ago(2))
			problem(w, r, http.StatusConflict, api.Problem{Code: api.ProblemCodeIllegalTransition, Detail: "the gate is decided",
				From: ptr("passed"), Event: ptr("reject"), Allowed: []string{"waive"}, Gate: &won})
		},
		"collectGarbage": collectedGarbage,
		"verifyStorage": answer(http.StatusOK, api.VerifyStorageAnswer{VerifyRunID: id("run", 9), Verification: &api.StorageReport{
			Objects: api.Count{N: 12, Bytes: 345678}, Missing: api.Count{N: 1, Bytes: 99}, Orphans: api.Count{N: 1, Bytes: 6},
			Items: []api.StorageItem{{Kind: api.StorageItemKindObject, ID: "t/1/pack/ab/abcd", Bytes: 99, What: "missing"}, {Kind: api.StorageItemKindOrphan, ID: "t/1/blob/cd/cdef-7", Bytes: 6, What: "without row"}},
		}}),
		"purgeBlob":       answer(http.StatusOK, api.PurgeAnswer{PurgeRunID: id("run", 9), Purge: api.Purge{Sha256: strings.Repeat("ab", 32), By: "ada", At: now, Reason: "leaked"}}),
		"listCheckpoints": answer(http.StatusOK, api.CheckpointPage{Items: []api.Checkpoint{checkpoint}}),
		"getCheckpoint": answer(http.StatusOK, api.CheckpointDetail{Checkpoint: checkpoint, Manifest: json.RawMessage(`{"v":1}`),
			Objects: []api.StoredObject{{Kind: api.StoredObjectKindPack, Sha256: digest(5)[7:], SizeBytes: 2000, URL: "http://s3/pack?signed", ExpiresAt: now}}}),
		"listCheckpointFiles": answer(http.StatusOK, api.FilePage{Items: []api.File{
			{Name: "cmd", Path: "cmd", Mode: api.FileModeN040000, Digest: digest(6)},
			{Name: "go.mod", Path: "go.mod", Mode: api.FileModeN100644, Digest: digest(7), SizeBytes: ptr(int64(120))}}}),
		"createCheckpoint": answer(http.StatusCreated, api.CreatedCheckpoint{CheckpointID: manual.ID, CheckpointRunID: id("run", 9), Checkpoint: &manual}),
		"bisectRun":        answer(http.StatusAccepted, api.BisectAnswer{Bisect: bisect}),
		"getBisect":        answer(http.StatusOK, api.BisectAnswer{Bisect: bisected}),
		"markCheckpoint":   answer(http.StatusOK, api.CheckpointAnswer{Checkpoint: manual}),
		"diffCheckpoint":   diffAnswers(),
		"startMerge":       answer(http.StatusCreated, api.MergeAnswer{Merge: conflictedMerge()}),
		"getMerge": func(w http.ResponseWriter, r *http.Request) {
			a := api.MergeAnswer{Merge: conflictedMerge(), NextCursor: ptr("Y29u")}
			if r.URL.Query().Has("cursor") {
				a.NextCursor, a.Merge.Conflicts = nil, nil
			}
			if prepared := strings.HasSuffix(r.URL.Path, id("mrg", 3)); prepared || strings.HasSuffix(r.URL.Path, id("mrg", 2)) {
				a.Merge.Status, a.Merge.UnresolvedCount, a.Merge.Conflicts, a.Merge.TargetMoved, a.Merge.Prepared = api.MergeStatusReady, 0, nil, false, prepared
			}
			answer(http.StatusOK, a)(w, r)
		},
		"createRepository":    answer(http.StatusCreated, boundRepository()),
		"listRepositories":    answer(http.StatusOK, api.RepositoryPage{Items: []api.Repository{boundRepository().Repository}}),
		"getRepository":       answer(http.StatusOK, api.RepositoryAnswer{Repository: ruledRepository()}),
		"changeRepository":    answer(http.StatusOK, api.RepositoryAnswer{Repository: boundRepository().Repository}),
		"acceptTools":         answer(http.StatusNoContent, nil),
		"deleteRepository":    answer(http.StatusNoContent, nil),
		"createReview":        answer(http.StatusAccepted, api.CreatedReview{Review: queuedReview(), Run: d.Run}),
		"listReviews":         answer(http.StatusOK, api.ReviewPage{Items: []api.Review{queuedReview(), failedReview(), supersededReview()}, NextCursor: ptr("cmV2")}),
		"getReview":           reviewAnswers,
		"rerunReview":         answer(http.StatusOK, api.CreatedReview{Review: queuedReview(), Run: d.Run}),
		"listReviewFindings":  answer(http.StatusOK, api.FindingPage{Items: []api.Finding{openFinding(), dismissedFinding(), fixedFinding()}}),
		"resolveFinding":      answer(http.StatusOK, api.FindingAnswer{Finding: openFinding()}),
		"dismissFinding":      answer(http.StatusOK, api.FindingAnswer{Finding: dismissedFinding()}),
		"reopenFinding":       answer(http.StatusOK, api.FindingAnswer{Finding: openFinding()}),
		"listReviewArtifacts": answer(http.StatusOK, reviewArtifacts()),
		"getReviewMetrics":    answer(http.StatusOK, reviewMetrics()),
		"getReviewArtifact": func(w http.ResponseWriter, r *http.Request) {
			problem(w, r, http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Detail: "the review has written no review.sarif"})
		},

		"resolveMerge": answer(http.StatusOK, api.MergeAnswer{Merge: conflictedMerge()}),
		"listMerges":   answer(http.StatusOK, api.MergePage{Items: []api.Merge{conflictedMerge()}}),
		"commitMerge": answer(http.StatusOK, api.MergeAnswer{Requeued: ptr(2), Merge: func() api.Merge {
			m := conflictedMerge()
			m.Status, m.CommittedCheckpointID = api.MergeStatusCommitted, ptr(id("ckpt", 9))
			return m
		}()}),
		"abandonMerge": func(w http.ResponseWriter, r *http.Request) {
			problem(w, r, http.StatusConflict, api.Problem{Code: api.ProblemCodeIllegalTransition, Detail: "the merge is committed", From: ptr("committed"), Event: ptr("abandon"), Allowed: []string{}})
		},
		"completeArtifact": answer(http.StatusOK, api.ArtifactAnswer{Artifact: api.Artifact{ID: id("art", 1), Name: "tree.tar.gz",
			MediaType: "application/gzip", SizeBytes: 2048, Sha256: sumOf("tree"), CreatedAt: ago(3)}}),
		"listArtifacts": answer(http.StatusOK, api.ArtifactPage{Items: []api.Artifact{
			{ID: id("art", 1), RunID: &d.Run.ID, StepID: ptr(id("step", 2)), Name: "unit-evidence\x1b[2J.json", MediaType: "application/json",
				SizeBytes: 1800, Sha256: digest(8)[7:], CreatedAt: ago(40)}}, NextCursor: ptr("YXJ0")}),
		"getCheckpointFile": text("module example\n", "application/octet-stream"),
		"getStepLogs":       text("compiling\nok\n", "text/plain"),
		"getStep": answer(http.StatusOK, api.StepDetail{Step: d.Steps[0], Attempts: []api.Attempt{{Fence: 1, WorkerID: "w1", WorkerPid: 42,
			StartedAt: ago(60), EndedAt: ptr(ago(52)), Accepted: true, Outcome: ptr("succeed"), ExitCode: ptr(0), TraceID: testTrace}}}),
		"listAPIKeys":  answer(http.StatusOK, api.APIKeyPage{Items: []api.APIKey{key, revoked}}),
		"createAPIKey": answer(http.StatusCreated, api.CreatedAPIKey{Key: key, Secret: "nofx_live_0198_secret"}),
		"revokeAPIKey": answer(http.StatusNoContent, nil),
		"listSubjects": answer(http.StatusOK, api.TokenSubjectPage{Items: []api.TokenSubject{
			{Subject: "oidc:0198c0de7a2b7c3d8e4f5a6b7c8d9e0f", Name: ptr("acme/shop"), SeenAt: ptr(ago(60))}, revokedSubject()}, NextCursor: ptr("c3Vi")}),
		"revokeSubject":       answer(http.StatusOK, api.TokenSubjectAnswer{Subject: revokedSubject()}),
		"listAlertEndpoints":  answer(http.StatusOK, api.AlertEndpointPage{Items: []api.AlertEndpoint{alertEndpoint(), brokenEndpoint()}, NextCursor: ptr("YWxy")}),
		"createAlertEndpoint": answer(http.StatusCreated, api.AlertEndpointAnswer{Endpoint: alertEndpoint(), Secret: ptr("whsec_c2VjcmV0")}), "changeAlertEndpoint": answer(http.StatusOK, api.AlertEndpointAnswer{Endpoint: brokenEndpoint()}),
		"rotateAlertSecret": answer(http.StatusOK, api.AlertEndpointAnswer{Endpoint: alertEndpoint(), Secret: ptr("whsec_b3RoZXI=")}), "deleteAlertEndpoint": answer(http.StatusNoContent, nil),
		"listAlertDeliveries": answer(http.StatusOK, api.AlertDeliveryPage{Items: alertDeliveries()}), "redeliverAlert": answer(http.StatusAccepted, api.AlertDeliveryAnswer{Delivery: alertDeliveries()[1]}),
		"listOIDCTrusts":  answer(http.StatusOK, api.OIDCTrustPage{Items: []api.OIDCTrust{trusted()}, NextCursor: ptr("dHJ1")}),
		"createOIDCTrust": answer(http.StatusCreated, api.OIDCTrustAnswer{Trust: trusted()}),
		"deleteOIDCTrust": answer(http.StatusNoContent, nil),
		"listProjects":    answer(http.StatusOK, api.ProjectPage{Items: []api.Project{{Slug: "default", CreatedAt: ago(7200)}, {Slug: "web", CreatedAt: ago(60)}}}),
		"createProject":   answer(http.StatusCreated, api.ProjectAnswer{Project: api.Project{Slug: "web", CreatedAt: now}}),
		"deleteProject":   answer(http.StatusNoContent, nil),
		"listSecrets":     answer(http.StatusOK, api.SecretPage{Items: []api.Secret{someSecret()}}),
		"setSecret":       answer(http.StatusOK, api.SecretAnswer{Secret: someSecret()}),
		"deleteSecret":    answer(http.StatusNoContent, nil),
		"getSettings":     answer(http.StatusOK, someSettings()),
		"changeSettings":  answer(http.StatusOK, someSettings()),
		"whoami":          answer(http.StatusOK, api.Whoami{Principal: api.Principal{TenantID: id("ten", 1), Tenant: "acme", Subject: alice, Name: "alice", Role: api.RoleAdmin, Scopes: []string{}}}),
	}
}

func revokedSubject() api.TokenSubject {
	return api.TokenSubject{Subject: "user:dave", Name: ptr("dave@example.com"), SeenAt: ptr(ago(3600)), RevokedBefore: ptr(ago(30)),
		RevokedBy: ptr(alice), RevokedByName: ptr("alice"), Reason: ptr("laptop stolen")}
}

func alertEndpoint() api.AlertEndpoint {
	return api.AlertEndpoint{ID: id("alert", 1), URL: "https://hooks.example.com/nofx", Events: []api.AlertEvent{"gate.failed", "run.failed"}, Status: "enabled", SecretVersion: 1, Version: 1,
		CreatedBy: "key:0198", CreatedAt: ago(60), UpdatedAt: ago(60)}
}

func brokenEndpoint() api.AlertEndpoint {
	e := alertEndpoint()
	e.ID, e.URL, e.Status, e.DisabledReason, e.FailingSince = id("alert", 2), "https://hooks.example.com/\x1b[31mred", "disabled", ptr(api.AlertEndpointDisabledReasonFailing), ptr(ago(60))
	return e
}

func alertDeliveries() []api.AlertDelivery {
	d := api.AlertDelivery{ID: id("msg", 2), Event: "run.failed", Data: map[string]any{"run_id": id("run", 1)}, At: ago(60), Status: "delivered", Attempt: 1, ResponseCode: ptr(204), TriedAt: ptr(ago(59)), DurationMs: ptr(12)}
	waiting := d
	waiting.ID, waiting.Status, waiting.Attempt, waiting.ResponseCode, waiting.Error, waiting.NextAttemptAt = id("msg", 1), "pending", 3, nil, ptr("no response within 10s"), ptr(ago(-120))
	return []api.AlertDelivery{d, waiting}
}

func trusted() api.OIDCTrust {
	return api.OIDCTrust{ID: id("trust", 1), Repository: "acme/shop", RepositoryID: 74, RepositoryOwnerID: 65, EventName: ptr("pull_request"),
		JobWorkflowRef: ptr("acme/ci/.github/workflows/review.yml@refs/heads/main"), CreatedBy: alice, CreatedAt: ago(60)}
}

func text(body, media string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Trace-Id", testTrace)
		w.Header().Set("Content-Type", media)
		w.Header().Set("Accept-Ranges", "bytes")
		w.Header().Set("ETag", `"`+digest(7)+`"`)
		_, _ = io.WriteString(w, body)
	}
}

// TestCommands shows what people and scripts see of every command that answers
// at once.
func TestCommands(t *testing.T) {
	t.Parallel()
	run, gate, ckpt := id("run", 1), id("gate", 1), id("ckpt", 1)
	for name, args := range map[string]string{
		"bisect-env":            "checkpoint bisect " + run + " --command false --env CI",
		"complete-runs":         "__complete run compare " + run + " run_",
		"branch-create":         "branch create " + run + " " + ckpt + " --name try --set /vars/x=1 --file f=plan.json --delete d --reuse-effects --plan-patch patch.json",
		"branch-variants":       "branch create " + run + " " + ckpt + " --variant small.json --variant large.json",
		"branch-no-checkpoint":  "branch create " + run,
		"branch-dry-run":        "branch create " + run + " " + ckpt + " --dry-run",
		"branch-bad-set":        "branch create " + run + " " + ckpt + " --set /vars/x=text",
		"branch-bad-pointer":    "branch create " + run + " " + ckpt + " --set x",
		"branch-bad-file":       "branch create " + run + " " + ckpt + " --file f",
		"branch-no-patch":       "branch create " + run + " " + ckpt + " --state-patch nowhere.txt",
		"branch-bad-patch":      "branch create " + run + " " + ckpt + " --plan-patch plan.json",
		"branch-create-help":    "branch create --help",
		"run-compare":           "run compare " + run + " " + id("run", 3),
		"run-compare-one":       "run compare " + run,
		"run-compare-json":      "run compare " + run + " " + id("run", 3) + " --json",
		"run-lineage":           "run lineage " + id("run", 3),
		"run-create":            "run create -f plan.json",
		"run-create-json":       "run create -f - --json",
		"run-create-body":       "run create -f body.json",
		"run-create-preview":    "run create -f plan.json --preview",
		"run-create-no-file":    "run create",
		"run-create-bad-json":   "run create -f bad.json",
		"run-create-both":       "run create -f plan.json --preview --watch",
		"run-list":              "run list --status failed --project default --label team:core --limit 2",
		"run-list-bad-status":   "run list --status asleep",
		"run-list-filters":      "run list --status running,failed --tool gate:* --search broken --since 7d --until 2026-03-04 --signature v1-0f1e --label team:core --cursor b2xk",
		"run-list-bad-since":    "run list --since yesterday",
		"run-timeline":          "run timeline " + run,
		"run-timeline-json":     "run timeline " + run + " --json",
		"trace-show":            "trace show " + testTrace,
		"trace-show-bad":        "trace show x",
		"queue-list":            "queue list",
		"queue-list-json":       "queue list --json",
		"queue-pause":           "queue pause review --reason moving",
		"queue-resume":          "queue resume review",
		"queue-pause-nothing":   "queue pause",
		"queue-resume-help":     "queue resume --help",
		"queue-list-help":       "queue list --help",
		"worker-list":           "worker list",
		"worker-list-json":      "worker list --json",
		"gate-list-filters":     "gate list --status all --name ship --project default --kind manual",
		"complete-statuses":     "__complete run list --status running,f",
		"complete-queue":        "__complete queue pause r",
		"complete-run":          "__complete run show run_",
		"complete-run-none":     "__complete run show " + run + " run_",
		"complete-retry":        "__complete run retry run_",
		"complete-step":         "__complete logs " + run + "/u",
		"complete-gate":         "__complete gate approve gate_",
		"complete-gate-run":     "__complete gate show " + run + "/",
		"complete-checkpoint":   "__complete checkpoint cat " + run + " ckpt_",
		"complete-since":        "__complete run list --since 2",
		"run-list-help":         "run list --help",
		"run-show":              "run show " + run,
		"run-show-other-noun":   "run show " + gate,
		"run-cancel":            "run cancel " + run + " --reason obsolete",
		"run-pause":             "run pause " + run,
		"run-resume":            "run resume " + run + " --reason go",
		"run-retry":             "run retry " + run,
		"run-retry-alone":       "run retry " + run + " --alone",
		"run-retry-step":        "run retry " + run + "/unit --alone --reason flaky",
		"run-rerun":             "run rerun " + run,
		"signal-send":           `signal send deploy/42 --payload {"v":1}`,
		"signal-bad-payload":    "signal send deploy/42 --payload text",
		"dlq-list":              "dlq list --class exhausted --tool gate:unit",
		"dlq-requeue":           "dlq requeue " + run + "/unit " + id("step", 2),
		"dlq-requeue-all":       "dlq requeue --all --tool bash --limit 10",
		"dlq-requeue-nothing":   "dlq requeue --tool bash",
		"gate-list":             "gate list",
		"gate-approve-one":      "gate approve " + id("gate", 3),
		"gate-show":             "gate show " + id("gate", 2),
		"gate-show-shared":      "gate show " + id("gate", 3),
		"gate-approve":          "gate approve " + gate,
		"gate-show-no-step":     "gate show " + run + "/nothing",
		"gate-show-nothing":     "gate show",
		"gate-show-run":         "gate show " + run,
		"gate-show-running":     "gate show " + run + "/unit",
		"gate-show-expired":     "gate show " + id("gate", 4),
		"gate-approve-bare":     "gate approve deploy",
		"logs-bare":             "logs build",
		"logs-near-step":        "logs " + run + "/biuld",
		"gate-reject-no-why":    "gate reject " + gate,
		"gate-reject-late":      "gate reject " + gate + " --reason late",
		"gate-reject-json":      "gate reject " + gate + " --reason late --json",
		"gate-waive":            "gate waive " + gate + " --reason flaky",
		"gc":                    "gc",
		"gc-dry-run":            "gc --dry-run",
		"gc-json":               "gc --json",
		"gc-help":               "gc --help",
		"storage-verify":        "storage verify --deep",
		"blob-purge":            "blob purge " + strings.Repeat("ab", 32) + " --reason leaked --yes",
		"blob-purge-unasked":    "blob purge " + strings.Repeat("ab", 32) + " --reason leaked",
		"blob-purge-help":       "blob purge --help",
		"blob-purge-no-why":     "blob purge " + strings.Repeat("ab", 32),
		"blob-purge-bad":        "blob purge abc --reason leaked",
		"checkpoint-list":       "checkpoint list " + run,
		"checkpoint-show":       "checkpoint show " + run + " " + ckpt,
		"checkpoint-bisect":     "checkpoint bisect " + run + " --command false --env CI=1 --timeout 1m",
		"checkpoint-bisect-env": "checkpoint bisect " + run + " --command false --env CI",
		"checkpoint-create":     "checkpoint create " + run + " --label mine",
		"checkpoint-label":      "checkpoint label " + run + " " + ckpt + " mine",
		"checkpoint-hold":       "checkpoint hold " + run + " " + ckpt + " --reason audit",
		"checkpoint-no-why":     "checkpoint hold " + run + " " + ckpt,
		"checkpoint-files":      "checkpoint files " + run + " " + ckpt,
		"checkpoint-cat":        "checkpoint cat " + run + " " + ckpt + " go.mod",
		"merge-start":           "merge start " + run + " " + id("run", 2) + " --mode strict",
		"merge-show":            "merge show " + id("mrg", 1),
		"merge-show-decided":    "merge show " + id("mrg", 2),
		"merge-show-prepared":   "merge show " + id("mrg", 3),
		"merge-list":            "merge list " + run,
		"merge-resolve":         "merge resolve " + id("mrg", 1) + " a.go /vars/x --take theirs",
		"merge-resolve-all":     "merge resolve " + id("mrg", 1) + " --all --take ours",
		"merge-resolve-what":    "merge resolve " + id("mrg", 1) + " --take ours",
		"merge-resolve-how":     "merge resolve " + id("mrg", 1) + " a.go",
		"merge-resolve-value":   "merge resolve " + id("mrg", 1) + " /vars/x --value x",
		"merge-resolve-file":    "merge resolve " + id("mrg", 1) + " a.go --file nowhere.txt",
		"merge-commit":          "merge commit " + id("mrg", 1) + " --resume",
		"merge-abandon":         "merge abandon " + id("mrg", 1) + " --reason done",
		"merge-help":            "merge resolve --help",
		"repository-add":        "repository add acme/shop --project web",
		"repository-add-policy": "repository add acme/shop --policy review.yaml",
		"repository-add-help":   "repository add --help",
		"repository-list":       "repository list",
		"repository-show":       "repository show " + id("repo", 1),
		"repository-set":        "repository set " + id("repo", 1) + " --policy -",
		"repository-set-gone":   "repository set " + id("repo", 1) + " --policy nowhere.txt",
		"repository-set-empty":  "repository set " + id("repo", 1),
		"repository-set-both":   "repository set " + id("repo", 1) + " --policy - --no-policy",
		"repository-disable":    "repository disable " + id("repo", 1),
		"repository-remove":     "repository remove " + id("repo", 1),
		"repository-accept":     "repository accept-tools github",
		"complete-repository":   "__complete repository rotate repo_",
		"review-start":          "review start --diff change.diff --repo acme/shop --pr 7 --dry-run",
		"review-start-pr":       "review start --repo acme/shop --pr 7 --wait",
		"review-start-nothing":  "review start",
		"review-start-no-diff":  "review start --provider diff",
		"review-start-help":     "review start --help",
		"review-wait":           "review wait " + id("rev", 2),
		"review-wait-json":      "review wait " + id("rev", 2) + " --json",
		"review-wait-passed":    "review wait " + id("rev", 4),
		"review-wait-lost":      "review wait " + id("rev", 5),
		"review-wait-newer":     "review wait " + id("rev", 3),
		"review-show":           "review show " + id("rev", 2),
		"review-show-queued":    "review show " + id("rev", 1),
		"review-list":           "review list --repo acme/shop --pr 7 --status completed --verdict failed",
		"review-findings":       "review findings " + id("rev", 2),
		"review-rerun":          "review rerun " + id("rev", 2) + " --reuse none",
		"review-resolve":        "review resolve " + id("find", 1),
		"review-dismiss":        "review dismiss " + id("find", 2) + " --reason false --scope path --expires 720h",
		"review-dismiss-no-why": "review dismiss " + id("find", 2),
		"review-dismiss-help":   "review dismiss --help",
		"review-reopen":         "review reopen " + id("find", 1) + " --reason so",
		"review-artifact":       "review artifact " + id("rev", 2) + " --format sarif",
		"review-artifacts":      "review artifacts " + id("rev", 2),
		"review-metrics":        "review metrics --since 7d --repo acme/shop",
		"complete-review":       "__complete review show rev_",
		"artifact-list":         "artifact list " + run,
		"artifact-no-file":      "artifact upload nowhere.txt",
		"artifact-complete":     "artifact complete " + id("art", 1),
		"logs":                  "logs " + run + "/build",
		"logs-no-such-step":     "logs " + run + "/deploy",
		"logs-list":             "logs " + id("step", 1) + " --list",
		"key-create":            "key create ci --scope runs:write --expires 24h",
		"key-create-nothing":    "key create ci",
		"key-list":              "key list",
		"audit-list":            "audit list --act gate.approve --since 7d --limit 2",
		"audit-list-help":       "audit list --help",
		"audit-verify":          "audit verify",
		"audit-verify-json":     "audit verify --json",
		"key-revoke":            "key revoke " + id("key", 1),
		"key-revoke-name":       "key revoke CI",
		"key-revoke-nothing":    "key revoke nobody",
		"key-create-help":       "key create --help",
		"subject-list":          "subject list",
		"alert-list":            "alert list",
		"alert-create":          "alert create https://hooks.example.com/nofx --event gate.failed,run.failed",
		"alert-create-help":     "alert create --help",
		"alert-update":          "alert update " + id("alert", 2) + " --disable",
		"alert-update-nothing":  "alert update " + id("alert", 2),
		"alert-update-both":     "alert update " + id("alert", 2) + " --enable --disable",
		"alert-rotate":          "alert rotate " + id("alert", 1),
		"alert-delete":          "alert delete " + id("alert", 1),
		"alert-deliveries":      "alert deliveries " + id("alert", 1),
		"alert-redeliver":       "alert redeliver " + id("alert", 1) + " " + id("msg", 1),
		"complete-alert":        "__complete alert delete a",
		"oidc-trust-create":     "oidc-trust create acme/shop --repository-id 74 --owner-id 65 --event pull_request",
		"oidc-trust-no-id":      "oidc-trust create acme/shop --owner-id 65",
		"oidc-trust-help":       "oidc-trust create --help",
		"oidc-trust-list":       "oidc-trust list",
		"oidc-trust-delete":     "oidc-trust delete " + id("trust", 1),
		"subject-revoke":        "subject revoke user:dave",
		"subject-revoke-help":   "subject revoke --help",
		"logs-help":             "logs --help",
		"gate-approve-help":     "gate approve --help",
		"project-list":          "project list",
		"project-create":        "project create web",
		"project-delete":        "project delete web",
		"complete-project":      "__complete project delete w",
		"secret-list":           "secret list",
		"secret-set":            "secret set REGISTRY_TOKEN",
		"secret-set-help":       "secret set --help",
		"secret-set-gone":       "secret set REGISTRY_TOKEN --file nowhere.txt",
		"secret-delete":         "secret delete REGISTRY_TOKEN",
		"complete-secret":       "__complete secret set R",
		"settings-get":          "settings get",
		"settings-get-help":     "settings get --help",
		"settings-set":          "settings set four_eyes=true queued_runs_max=default",
		"settings-set-word":     "settings set four_eyes=yes",
		"settings-set-twice":    "settings set four_eyes=true four_eyes=false",
		"complete-settings":     "__complete settings set model",
		"whoami":                "whoami",
		"whoami-json":           "whoami --json",
		"help":                  "--help",
		"unknown-command":       "run fly",
		"run-create-no-flag":    "run create plan.json --watch",
		"unknown-near":          "run lst",
		"unknown-near-group":    "rnu list",
		"unknown-flag":          "run list --colour",
		"complete-status":       "__complete gate list --status e",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, script())
			c := newCLI(t, server.URL)
			c.in = strings.NewReader(plan)
			for file, content := range map[string]string{"nowhere.txt": "", "change.diff": aDiff, "review.yaml": aPolicy, "plan.json": plan, "bad.json": "{\n  \"goal\": \"x\",\n}", "body.json": `{"plan": ` + plan + `}`,
				"patch.json": `[{"op":"replace","path":"/goal","value":"other"}]`, "small.json": `{"plan_patch":[]}`, "large.json": `{"name":"big"}`} {
				path := filepath.Join(c.dir, file)
				args = strings.NewReplacer(" "+file, " "+path, "="+file, "="+path).Replace(args)
				if content == "" {
					continue
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := c.transcript(t.Context(), strings.Fields(args)...)
			got = strings.NewReplacer(c.dir+"/", "", server.URL, "http://gateway").Replace(got)
			golden(t, name, got)
		})
	}
}

// A gate may be named by its step.
func TestGateByStep(t *testing.T) {
	t.Parallel()
	d := detail()
	second, other := d.Gates[0], d.Gates[0]
	second.ID, second.Round = id("gate", 5), 2
	other.ID, other.StepID, other.StepName, other.Name = id("gate", 6), id("step", 2), "unit", "both"
	another := other
	another.ID, another.StepID, another.StepName = id("gate", 7), id("step", 1), "build"
	d.Gates = append(d.Gates, second, other, another)
	for name, want := range map[string]struct {
		gate string
		exit int
		says string
	}{
		"ship":     {id("gate", 5), exitOK, ""},
		"deploy":   {id("gate", 5), exitOK, ""},
		"build":    {id("gate", 7), exitOK, ""},
		"both":     {"", exitUsage, "name the step, unit or build"},
		"announce": {"", exitNotFound, "steps with a gate: ship, unit, build"},
		"nothing":  {"", exitNotFound, "no step and no gate \"nothing\""},
	} {
		answers := script()
		answers["getRun"] = answer(http.StatusOK, d)
		g, server := newGateway(t, answers)
		c := newCLI(t, server.URL)
		if got := execute(t.Context(), c.app, []string{"gate", "approve", id("run", 1) + "/" + name}); got != want.exit || !strings.Contains(c.errOut.String(), want.says) {
			t.Errorf("gate approve RUN/%s = exit %d, %q; want %d, %q in it", name, got, &c.errOut, want.exit, want.says)
		}
		requests := []string{"GET /api/runs/" + id("run", 1)}
		if want.gate != "" {
			requests = append(requests, "POST /api/gates/"+want.gate+"/approve")
		}
		if diff := cmp.Diff(requests, g.requests()); diff != "" {
			t.Errorf("requests of RUN/%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestOnTerminals shows tables at the widths of terminals: nothing wraps.
func TestOnTerminals(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]string{
		"run-list": "run list", "run-timeline": "run timeline " + id("run", 1), "worker-list": "worker list", "queue-list": "queue list",
		"gate-list": "gate list", "run-compare": "run compare " + id("run", 1) + " " + id("run", 3), "run-lineage": "run lineage " + id("run", 3),
		"checkpoint-list": "checkpoint list " + id("run", 1), "merge-list": "merge list " + id("run", 1), "run-show": "run show " + id("run", 1),
		"repository-list": "repository list", "review-list": "review list", "review-show": "review show " + id("rev", 2), "review-findings": "review findings " + id("rev", 2), "review-metrics": "review metrics", "review-artifacts": "review artifacts " + id("rev", 2),
		"dlq-list": "dlq list", "key-list": "key list", "subject-list": "subject list", "oidc-trust-list": "oidc-trust list", "alert-list": "alert list", "alert-deliveries": "alert deliveries " + id("alert", 1), "artifact-list": "artifact list " + id("run", 1), "logs-list": "logs " + id("step", 1) + " --list",
	} {
		for _, width := range []int{80, 200} {
			t.Run(fmt.Sprint(name, "-", width), func(t *testing.T) {
				t.Parallel()
				_, server := newGateway(t, script())
				c := newCLI(t, server.URL)
				c.screen = func() (int, int) { return width, 50 }
				got := c.transcript(t.Context(), strings.Fields(args)...)
				for line := range strings.Lines(c.out.String()) {
					if n := len([]rune(strings.TrimRight(line, "\n"))); n > width {
						t.Errorf("a line of %d on a terminal of %d: %s", n, width, line)
					}
				}
				golden(t, fmt.Sprint(name, "-", width), got)
			})
		}
	}
}

// TestCompletionScripts checks that each shell gets its script, and that bash takes
// what it gets.
func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{"bash": "complete -o default -F __start_nofx nofx", "zsh": "#compdef nofx", "fish": "complete -c nofx"} {
		c := newCLI(t, "http://nowhere")
		if code := execute(t.Context(), c.app, []string{"completion", shell}); code != exitOK || !strings.Contains(c.out.String(), want) {
			t.Errorf("completion %s = exit %d, want 0 and %q in it", shell, code, want)
		}
		if bash, err := exec.LookPath("bash"); shell == "bash" && err == nil {
			check := exec.CommandContext(t.Context(), bash, "-n")
			check.Stdin = strings.NewReader(c.out.String())
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("bash does not read its script: %v\n%s", err, out)
			}
		}
	}
}

func TestRunCreateSendsKeyAndTrace(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, script())
	var keys []string
	for range 2 {
		c := newCLI(t, server.URL)
		c.in = strings.NewReader(plan)
		c.setenv("NOFX_URL", server.URL, "NOFX_API_KEY", testKey, "TRACEPARENT", "00-"+testTrace+"-b7ad6b7169203331-01")
		if got := execute(t.Context(), c.app, []string{"run", "create", "-f", "-", "--project", "web"}); got != exitOK {
			t.Fatalf("run create = exit %d, want 0: %s", got, &c.errOut)
		}
	}
	for _, r := range g.seen {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if got, want := r.Header.Get("X-Project-Id"), "web"; got != want {
			t.Errorf("X-Project-Id = %q, want %q", got, want)
		}
		if got := r.Header.Get("Traceparent"); !strings.Contains(got, testTrace) {
			t.Errorf("traceparent = %q, want the caller's trace", got)
		}
	}
	if len(keys) != 2 || keys[0] == "" || keys[0] == keys[1] {
		t.Errorf("Idempotency-Keys = %q, want two different ones", keys)
	}
}

// TestPlanWithMark reads a plan as some editors save it, with a byte order mark.
func TestPlanWithMark(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ file, want string }{
		"a plan":    {"\ufeff" + `{"goal":"g"}`, `{"plan":{"goal":"g"}}`},
		"a request": {"\ufeff" + `{"plan":{"goal":"g"}}`, `{"plan":{"goal":"g"}}`},
		"two marks": {"\ufeff\ufeff" + `{"goal":"g"}`, ""},
	} {
		c := newCLI(t, "http://gateway.invalid")
		c.in = strings.NewReader(tt.file)
		got, err := c.planRequest("-")
		if string(got) != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: planRequest(%q) = %q, %v, want %q", name, tt.file, got, err, tt.want)
		}
	}
}

// TestProblems shows a refusal with its fields, and the exit code of each kind.
func TestProblems(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status  int
		problem api.Problem
		want    int
	}{
		"plan": {http.StatusUnprocessableEntity, api.Problem{Code: api.ProblemCodeInvalidPlan, Detail: "the plan is wrong in 2 places",
			Errors: []api.FieldError{{Pointer: "/plan/steps/0/tool", Step: ptr("build"), Detail: "unknown tool \"ba\x1bsh\""}, {Pointer: "/plan/goal", Detail: "is required"}}}, exitRefused},
		"faults": {http.StatusUnprocessableEntity, api.Problem{Code: api.ProblemCodeInvalidPlan, Detail: `/plan/steps/0/tool (step build): unknown tool "bahs" (and 2 more)`,
			Errors: []api.FieldError{{Pointer: "/plan/steps/0/tool", Step: ptr("build"), Detail: "unknown tool \"bahs\""}, {Pointer: "/plan/goal", Detail: "is required"}, {Pointer: "/plan/labels/A", Detail: "is required"}}}, exitRefused},
		"parameter": {http.StatusBadRequest, api.Problem{Code: api.ProblemCodeBadParameter, Detail: "until must be after since",
			Errors: []api.FieldError{{Pointer: "/until", Detail: "must be after since"}}}, exitRefused},
		"forbidden": {http.StatusForbidden, api.Problem{Code: api.ProblemCodeForbidden, Detail: "wants an operator"}, exitRefused},
		"missing":   {http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Detail: "no such project"}, exitNotFound},
		"internal":  {http.StatusInternalServerError, api.Problem{Code: api.ProblemCodeInternal, Detail: "that is our mistake"}, exitFailed},
		"limited":   {http.StatusTooManyRequests, api.Problem{Code: api.ProblemCodeRateLimited, Detail: "too many requests"}, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, server := newGateway(t, map[string]http.HandlerFunc{"createRun": func(w http.ResponseWriter, r *http.Request) {
				problem(w, r, tt.status, tt.problem)
			}})
			c := newCLI(t, server.URL)
			c.in = strings.NewReader(plan)
			got := c.transcript(t.Context(), "run", "create", "-f", "-")
			if !strings.HasSuffix(got, "-- exit "+string(rune('0'+tt.want))+" --\n") {
				t.Errorf("run create = %s, want exit %d", got, tt.want)
			}
			golden(t, "problem-"+name, got)
		})
	}
}

// TestNotAGateway shows what happens at the wrong address.
func TestNotAGateway(t *testing.T) {
	t.Parallel()
	_, server := newGateway(t, nil)
	c := newCLI(t, server.URL)
	server.Close()
	if got := execute(t.Context(), c.app, []string{"whoami"}); got != exitFailed {
		t.Errorf("whoami without a gateway = exit %d, want %d", got, exitFailed)
	}
	if got, want := c.errOut.String(), "no response from the gateway at "+server.URL; !strings.Contains(got, want) {
		t.Errorf("whoami without a gateway says %q, want %q in it", got, want)
	}
	if got, want := len(c.pauses), maxTries-1; got != want {
		t.Errorf("it paused %d times, want %d", got, want)
	}
}

// Whoever names a queue that is not there is told which there are.
func TestNoSuchQueue(t *testing.T) {
	t.Parallel()
	answers := script()
	answers["pauseQueue"] = func(w http.ResponseWriter, r *http.Request) {
		problem(w, r, http.StatusNotFound, api.Problem{Code: api.ProblemCodeNotFound, Detail: "no such queue"})
	}
	for name, want := range map[string]string{
		"nosuch":  "error: not found: there is no queue \"nosuch\"; there are review, step, both\n",
		"reviews": "error: not found: there is no queue \"reviews\" (did you mean review?); there are review, step, both\n",
	} {
		_, server := newGateway(t, answers)
		c := newCLI(t, server.URL)
		if got := execute(t.Context(), c.app, []string{"queue", "pause", name}); got != exitNotFound || c.errOut.String() != want {
			t.Errorf("queue pause %s = exit %d, %q, want %d, %q", name, got, &c.errOut, exitNotFound, want)
		}
	}
}

// A page without gates is none that people want to see while the gateway looks on.
func TestGateListGoesOn(t *testing.T) {
	t.Parallel()
	g, server := newGateway(t, map[string]http.HandlerFunc{"listGates": func(w http.ResponseWriter, r *http.Request) {
		page, next := api.GatePage{Items: []api.Gate{}}, "b2xk"
		if page.NextCursor = &next; r.URL.Query().Get("cursor") == next {
			page = api.GatePage{Items: []api.Gate{shipGate()}}
		}
		answer(http.StatusOK, page)(w, r)
	}})
	c := newCLI(t, server.URL)
	if shown := c.transcript(t.Context(), "gate", "list", "--name", "ship"); !strings.Contains(shown, shipGate().ID) {
		t.Errorf("gate list = %s, want the gate of the second page", shown)
	}
	if got := g.requests(); len(got) != 2 {
		t.Errorf("gate list asked %v, want two pages", got)
	}
}
