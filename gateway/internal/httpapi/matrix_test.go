package httpapi

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
)

// matrix asks every operation of the contract as every kind of caller, of the tenant and of
// another one. What each may is read from the contract, so that a new operation joins by
// itself; it fails until it has a fixture, a request that succeeds.
type matrix struct {
	*gateway
	n     int
	first map[string]string // ids of things that are only read, by what they are
}

// cell is a request of the matrix.
type cell struct {
	path, body string // what the contract has in braces is filled in
	names      bool   // what the path has in braces is a name that every tenant has, not an id
	ids        bool   // the query has ids
	refused    int    // how it is refused for a reason that is not the caller; 0: it succeeds
}

// kind is a kind of caller.
type kind struct {
	name string
	key  func(scope string) string // for an operation with this scope
	may  func(r rule) bool
}

// unique returns a text that no other call returned.
func (m *matrix) unique(prefix string) string {
	m.n++
	return fmt.Sprintf("%s-%d", prefix, m.n)
}

// once returns the id that make returned the first time.
func (m *matrix) once(what string, make func() string) string {
	if m.first[what] == "" {
		m.first[what] = make()
	}
	return m.first[what]
}

// aRun returns a run that has ended, and left two checkpoints with a file f.
func (m *matrix) aRun() string {
	return m.once("run", func() string {
		created, ids := line(m.gateway, 2)
		m.first["step"], m.first["checkpoint"], m.first["trace"] = created.Steps[0].ID, ids[1], created.Run.TraceID
		return created.Run.ID
	})
}

func (m *matrix) aStep() string       { m.aRun(); return m.first["step"] }
func (m *matrix) aCheckpoint() string { m.aRun(); return m.first["checkpoint"] }

// aGate returns a gate that waits for a decision.
func (m *matrix) aGate() string {
	created := m.runIn(api.RunStatusWaiting)
	return m.detail(created.Run.ID).Gates[0].ID
}

// aMerge returns a merge in a state: open, conflicted or ready.
func (m *matrix) aMerge(state api.MergeStatus) string {
	_, base := m.line()
	target, _ := m.line(base)
	source, _ := m.line(base)
	r := m.do(http.MethodPost, "/api/runs/"+target.Run.ID+"/merges", `{"source_run_id":"`+source.Run.ID+`"}`)
	m.want(r, http.StatusCreated, "")
	merge := decodeAs[api.MergeAnswer](m, r).Merge
	switch state {
	case api.MergeStatusConflicted:
		m.computeMerge(merge, conflictsAt("a"))
	case api.MergeStatusReady:
		m.computeMerge(merge, stored())
	}
	return merge.ID
}

// aReview returns a review that is over, with its result as an artifact and one finding.
func (m *matrix) aReview() string {
	v := m.startReview(posted(strings.ReplaceAll(aDiff, "a.go", m.unique("a")+".go"), "")).Review
	c, begun := m.beginReview(v)
	m.keep(c, begun, "review.json", 0, "{}")
	finding := run.NewID()
	m.endReview(c, begun, postgres.ReviewEnd{Verdict: review.Failed, Occurrences: []postgres.Occurrence{occurrence(finding, m.unique("fp"), review.High)}})
	m.first["finding of "+v.ID] = run.FindingID.Format(finding)
	return v.ID
}

func (m *matrix) aFinding() string { return m.first["finding of "+m.aReview()] }

// made posts a body and returns the id of what was made, which find finds in the answer.
func (m *matrix) made(path, body string, id func(reply) string) string {
	m.Helper()
	r := m.do(http.MethodPost, path, body)
	m.want(r, http.StatusCreated, "")
	return id(r)
}

func (m *matrix) aKey() string {
	return m.made("/api/api-keys", `{"name":"`+m.unique("key")+`","role":"viewer"}`, func(r reply) string { return decodeAs[api.CreatedAPIKey](m, r).Key.ID })
}

func (m *matrix) aRepository() string {
	return m.repository("acme/" + m.unique("shop")).Repository.ID
}

func (m *matrix) trustBody() string {
	return fmt.Sprintf(`{"repository":"acme/shop","repository_id":%d,"repository_owner_id":65}`, 1000+len(m.unique(""))*1000+m.n)
}

func (m *matrix) aTrust() string {
	return m.made("/api/oidc-trusts", m.trustBody(), func(r reply) string { return decodeAs[api.OIDCTrustAnswer](m, r).Trust.ID })
}

func (m *matrix) aProject() string {
	return m.made("/api/projects", `{"slug":"`+m.unique("project")+`"}`, func(r reply) string { return decodeAs[api.ProjectAnswer](m, r).Project.Slug })
}

func (m *matrix) aSecret() string {
	name := strings.ReplaceAll(m.unique("SECRET"), "-", "_")
	m.want(m.do(http.MethodPut, "/api/secrets/"+name, `{"value":"12345678"}`), http.StatusOK, "")
	return name
}

// anAlert returns an endpoint of alerts. Those before it are deleted, since a
// tenant has few.
func (m *matrix) anAlert() string {
	for _, e := range decodeAs[api.AlertEndpointPage](m, m.get("/api/alert-endpoints")).Items {
		if e.ID != m.first["alert"] {
			m.want(m.do(http.MethodDelete, "/api/alert-endpoints/"+e.ID, ""), http.StatusNoContent, "")
		}
	}
	return m.made("/api/alert-endpoints", alertBody, func(r reply) string { return decodeAs[api.AlertEndpointAnswer](m, r).Endpoint.ID })
}

// fixtures returns a request that succeeds for each operation, and makes what it needs.
func (m *matrix) fixtures() map[string]func() cell {
	fixed := func(path, body string) func() cell { return func() cell { return cell{path: path, body: body} } }
	ofRun := func(rest, body string) func() cell {
		return func() cell { return cell{path: "/api/runs/" + m.aRun() + rest, body: body} }
	}
	ofFresh := func(status api.RunStatus, rest string) func() cell {
		return func() cell { return cell{path: "/api/runs/" + m.runIn(status).Run.ID + rest} }
	}
	ofCheckpoint := func(rest, body string) func() cell {
		return func() cell {
			return cell{path: "/api/runs/" + m.aRun() + "/checkpoints/" + m.aCheckpoint() + rest, body: body}
		}
	}
	of := func(path string, make func() string, rest, body string) func() cell {
		return func() cell { return cell{path: path + make() + rest, body: body} }
	}
	once := func(what string, make func() string) func() string {
		return func() string { return m.once(what, make) }
	}
	merge := func(state api.MergeStatus, rest, body string) func() cell {
		return of("/api/merges/", func() string { return m.aMerge(state) }, rest, body)
	}
	unsigned := func(path string) func() cell {
		return func() cell { return cell{path: path, body: `{}`, refused: http.StatusUnauthorized} } // it has no signature
	}
	const why = `{"reason":"x"}`
	shared := once("review", m.aReview)
	upload := func() api.Artifact { return m.gateway.upload(m.unique("content")) }
	return map[string]func() cell{
		"createRun": fixed("/api/runs", oneStep), "listRuns": fixed("/api/runs", ""), "previewRun": fixed("/api/runs/preview", oneStep),
		"getRun": ofRun("", ""), "getLineage": ofRun("/lineage", ""), "rerunRun": ofRun("/rerun", ""),
		"getTrace":  func() cell { m.aRun(); return cell{path: "/api/traces/" + m.first["trace"]} },
		"cancelRun": ofFresh(api.RunStatusQueued, "/cancel"), "pauseRun": ofFresh(api.RunStatusQueued, "/pause"),
		"resumeRun": ofFresh(api.RunStatusPaused, "/resume"), "retryRun": ofFresh(api.RunStatusFailed, "/retry"),
		"createBranches": func() cell {
			return cell{path: "/api/runs/" + m.aRun() + "/branches", body: `{"checkpoint_id":"` + m.aCheckpoint() + `"}`}
		},
		"compareRuns": func() cell {
			return cell{path: "/api/compare?runs=" + m.aRun() + "," + m.once("rerun", func() string { // of the same plan, so that they can be compared
				return m.made("/api/runs/"+m.aRun()+"/rerun", "", func(r reply) string { return decodeAs[api.CreatedRun](m, r).Run.ID })
			}), ids: true}
		},

		"listSteps": ofRun("/steps", ""), "getTimeline": ofRun("/timeline", ""), "getStep": of("/api/steps/", m.aStep, "", ""), "getStepLogs": of("/api/steps/", m.aStep, "/logs", ""),
		"retryStep":     func() cell { return cell{path: "/api/steps/" + m.runIn(api.RunStatusFailed).Steps[0].ID + "/retry"} },
		"listRunEvents": ofRun("/events", ""), "listEvents": fixed("/api/events", ""),
		"createStreamTicket": fixed("/api/stream-tickets", `{"path":"/api/events"}`),
		"sendSignal":         func() cell { return cell{path: "/api/signals", body: `{"key":"` + m.unique("k") + `"}`} },
		"listDeadLetters":    fixed("/api/dead-letters", ""), "requeueDeadLetters": fixed("/api/dead-letters/requeue", `{}`),
		"requeueDeadLetter": func() cell {
			return cell{path: "/api/dead-letters/" + m.runIn(api.RunStatusFailed).Steps[0].ID + "/requeue"}
		},

		"listGates": fixed("/api/gates", ""), "getGate": of("/api/gates/", once("gate", m.aGate), "", ""),
		"approveGate": of("/api/gates/", m.aGate, "/approve", ""), "rejectGate": of("/api/gates/", m.aGate, "/reject", why), "waiveGate": of("/api/gates/", m.aGate, "/waive", why),

		"listCheckpoints": ofRun("/checkpoints", ""), "getCheckpoint": ofCheckpoint("", ""), "createCheckpoint": ofRun("/checkpoints?wait_s=0", ""),
		"archiveCheckpoint": ofCheckpoint("/archive?wait_s=0", ""), "markCheckpoint": ofCheckpoint("", `{"label":"x"}`), "diffCheckpoint": ofCheckpoint("/diff?wait_s=0", ""),
		"listCheckpointFiles": ofCheckpoint("/files", ""), "getCheckpointFile": ofCheckpoint("/file?path=f", ""),
		"bisectRun": ofRun("/bisect", `{"command":"x"}`),
		"getBisect": of("/api/bisects/", once("bisect", func() string {
			r := m.do(http.MethodPost, "/api/runs/"+m.aRun()+"/bisect", `{"command":"y"}`)
			m.want(r, http.StatusAccepted, "")
			return decodeAs[api.BisectAnswer](m, r).Bisect.ID
		}), "", ""),

		"listMerges": ofRun("/merges", ""), "getMerge": of("/api/merges/", once("merge", func() string { return m.aMerge(api.MergeStatusOpen) }), "", ""),
		"startMerge": func() cell {
			_, base := m.line()
			target, _ := m.line(base)
			source, _ := m.line(base)
			return cell{path: "/api/runs/" + target.Run.ID + "/merges", body: `{"source_run_id":"` + source.Run.ID + `"}`}
		},
		"resolveMerge": merge(api.MergeStatusConflicted, "/resolutions", `{"resolutions":[{"path":"a","take":"ours"}]}`),
		"commitMerge":  merge(api.MergeStatusReady, "/commit", ""), "abandonMerge": merge(api.MergeStatusOpen, "/abandon", why),

		"listArtifacts": ofRun("/artifacts", ""),
		"createArtifact": func() cell {
			return cell{path: "/api/artifacts", body: announcement("a.txt", m.unique("content"))}
		},
		"getArtifact": of("/api/artifacts/", once("artifact", func() string { return upload().ID }), "", ""),
		"completeArtifact": func() cell {
			content := m.unique("content")
			created := m.announce(content)
			m.putSigned(created.Upload, content)
			return cell{path: "/api/artifacts/" + created.Artifact.ID + "/complete?wait_s=0"}
		},

		"createReview": func() cell {
			return cell{path: "/api/reviews", body: strings.Replace(aPullRequest, "acme/shop", "acme/"+m.unique("shop"), 1)}
		},
		"listReviews": fixed("/api/reviews", ""), "getReview": of("/api/reviews/", shared, "", ""), "rerunReview": of("/api/reviews/", m.aReview, "/rerun", ""),
		"listReviewFindings": of("/api/reviews/", shared, "/findings", ""), "listReviewArtifacts": of("/api/reviews/", shared, "/artifacts", ""), "getReviewArtifact": of("/api/reviews/", shared, "/artifact", ""),
		"getFinding": of("/api/findings/", once("finding", m.aFinding), "", ""), "resolveFinding": of("/api/findings/", m.aFinding, "/resolve", why), "dismissFinding": of("/api/findings/", m.aFinding, "/dismiss", why),
		"reopenFinding": of("/api/findings/", func() string {
			id := m.aFinding()
			m.want(m.do(http.MethodPost, "/api/findings/"+id+"/resolve", why), http.StatusOK, "")
			return id
		}, "/reopen", why),
		"getReviewMetrics": fixed("/api/review-metrics", ""),

		"listRepositories": fixed("/api/repositories", ""),
		"createRepository": func() cell {
			return cell{path: "/api/repositories", body: `{"provider":"github","name":"acme/` + m.unique("shop") + `"}`}
		},
		"getRepository": of("/api/repositories/", once("repository", m.aRepository), "", ""), "changeRepository": of("/api/repositories/", m.aRepository, "", `{"enabled":false}`), "deleteRepository": of("/api/repositories/", m.aRepository, "", ""),
		"acceptTools":          func() cell { return cell{path: "/api/forges/github/tools", names: true} },
		"receiveGitHubWebhook": unsigned("/api/webhooks/github?repository=" + run.RepositoryID.Format(uuid.Nil)), "receiveBitbucketWebhook": unsigned("/api/webhooks/bitbucket"),

		"listAPIKeys": fixed("/api/api-keys", ""), "revokeAPIKey": of("/api/api-keys/", m.aKey, "", ""), "whoami": fixed("/api/whoami", ""),
		"createAPIKey": func() cell {
			return cell{path: "/api/api-keys", body: `{"name":"` + m.unique("key") + `","role":"viewer"}`}
		},
		"listOIDCTrusts": fixed("/api/oidc-trusts", ""), "createOIDCTrust": func() cell { return cell{path: "/api/oidc-trusts", body: m.trustBody()} }, "deleteOIDCTrust": of("/api/oidc-trusts/", m.aTrust, "", ""),
		"listSubjects": fixed("/api/subjects", ""), "revokeSubject": func() cell { return cell{path: "/api/subjects/user:ann/revoke", names: true} },
		"listProjects": fixed("/api/projects", ""), "deleteProject": of("/api/projects/", m.aProject, "", ""),
		"createProject": func() cell { return cell{path: "/api/projects", body: `{"slug":"` + m.unique("project") + `"}`} },
		"listSecrets":   fixed("/api/secrets", ""), "getSecret": of("/api/secrets/", once("secret", m.aSecret), "", ""), "deleteSecret": of("/api/secrets/", m.aSecret, "", ""),
		"setSecret":   func() cell { return cell{path: "/api/secrets/TOKEN", body: `{"value":"12345678"}`, names: true} },
		"getSettings": fixed("/api/settings", ""), "changeSettings": fixed("/api/settings", `{"retention_days":31}`),
		"listAlertEndpoints": fixed("/api/alert-endpoints", ""), "createAlertEndpoint": func() cell { m.anAlert(); return cell{path: "/api/alert-endpoints", body: alertBody} },
		"getAlertEndpoint": of("/api/alert-endpoints/", once("alert", m.anAlert), "", ""), "changeAlertEndpoint": of("/api/alert-endpoints/", m.anAlert, "", `{"enabled":false}`),
		"deleteAlertEndpoint": of("/api/alert-endpoints/", m.anAlert, "", ""), "rotateAlertSecret": of("/api/alert-endpoints/", m.anAlert, "/rotate-secret", ""),
		"listAlertDeliveries": of("/api/alert-endpoints/", once("alert", m.anAlert), "/deliveries", ""),
		"redeliverAlert": func() cell {
			id := m.anAlert()
			return cell{path: "/api/alert-endpoints/" + id + "/deliveries/" + m.tellAlert(id) + "/redeliver"}
		},
		"listAudit": fixed("/api/audit", ""), "listAuditAnchors": fixed("/api/audit/anchors", ""),

		"collectGarbage": fixed("/api/gc?wait_s=0", `{}`), "verifyStorage": fixed("/api/storage/verify?wait_s=0", `{}`),
		"purgeBlob": of("/api/blobs/", once("blob", func() string { return upload().Sha256 }), "/purge?wait_s=0", why),

		"listQueues": fixed("/api/queues", ""), "listWorkers": fixed("/api/workers", ""),
		"pauseQueue":  func() cell { return cell{path: "/api/queues/step/pause", names: true} },
		"resumeQueue": func() cell { return cell{path: "/api/queues/step/resume", names: true} },
		"healthz":     fixed("/healthz", ""), "readyz": fixed("/readyz", ""), "getContract": fixed("/api/openapi.yaml", ""), "getDocs": fixed("/api/docs", ""),
		"getDocsAsset": func() cell { return cell{path: "/api/docs/page.css", names: true} },
	}
}

// kinds returns the kinds of callers of a tenant.
func (m *matrix) kinds(tenant uuid.UUID) []kind {
	all := []kind{{name: "nobody", key: func(string) string { return "" }, may: func(r rule) bool { return r.public }}}
	people := []api.Role{api.RoleViewer, api.RoleOperator, api.RoleSupervisor, api.RoleAdmin}
	for i, role := range people {
		key := m.newKey(tenant, role)
		all = append(all, kind{name: string(role), key: func(string) string { return key }, may: func(r rule) bool {
			return r.public || r.anyKey || slices.Index(people, r.role) <= i && r.role != ""
		}})
	}
	with := map[string]string{}
	every := append([]string{"gates:write", "keys:write"}, m.server.scopes...) // two that open nothing
	for _, scope := range append([]string{""}, m.server.scopes...) {
		with[scope] = m.newKey(tenant, api.RoleService, slices.DeleteFunc(slices.Clone(every), func(s string) bool { return s == scope })...)
	}
	whole := m.newKey(tenant, api.RoleService, every...)
	return append(all,
		kind{name: "service with all scopes", key: func(string) string { return whole }, may: func(r rule) bool { return r.public || r.anyKey || r.scope != "" }},
		kind{name: "service without its scope", key: func(scope string) string { return with[scope] }, may: func(r rule) bool { return r.public || r.anyKey }})
}

// operationRule returns what the contract says of who may call an operation.
func operationRule(op *openapi3.Operation) rule {
	text := func(name string) string {
		s, _ := op.Extensions[name].(string)
		return strings.Replace(s, "none", "", 1)
	}
	r := rule{public: op.Security != nil && len(*op.Security) == 0, role: api.Role(text("x-nofx-role")), scope: text("x-nofx-scope")}
	r.anyKey = !r.public && r.role == ""
	return r
}

// each calls visit for every operation of the contract that has a fixture, and fails for
// those that have none.
func (m *matrix) each(visit func(method, path string, op *openapi3.Operation, request func() cell)) {
	fixtures := m.fixtures()
	for _, path := range slices.Sorted(maps.Keys(contract.Paths.Map())) {
		operations := contract.Paths.Value(path).Operations()
		for _, method := range slices.Sorted(maps.Keys(operations)) {
			op := operations[method]
			request, ok := fixtures[op.OperationID]
			if !ok {
				m.Errorf("operation %s (%s %s) has no fixture in the matrix", op.OperationID, method, path)
				continue
			}
			delete(fixtures, op.OperationID)
			visit(method, path, op, request)
		}
	}
	for id := range fixtures {
		m.Errorf("the fixture %s is of no operation of the contract", id)
	}
}

func (m *matrix) ask(method string, c cell, key string) reply {
	m.Helper()
	authorization := ""
	if key != "" {
		authorization = "Bearer " + key
	}
	return m.do(method, c.path, c.body, header{"Authorization": authorization})
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	return &matrix{gateway: newGateway(t), first: map[string]string{}}
}

// TestS05_Matrix checks that who may call an operation gets its answer, and whoever else is
// refused without an effect: those who may are asked after the others, of the same thing.
func TestS05_Matrix(t *testing.T) {
	m := newMatrix(t)
	kinds, cells := m.kinds(m.tenant), 0
	m.each(func(method, path string, op *openapi3.Operation, request func() cell) {
		r, c := operationRule(op), request()
		for _, k := range kinds {
			if k.may(r) {
				continue
			}
			want := http.StatusForbidden
			if k.name == "nobody" {
				want = http.StatusUnauthorized
			}
			cells++
			if got := m.ask(method, c, k.key(r.scope)); got.status != want {
				t.Errorf("%s as %s = %d %.200s, want %d", op.OperationID, k.name, got.status, got.body, want)
			}
		}
		fresh := true
		for _, k := range kinds {
			if !k.may(r) {
				continue
			}
			if !fresh {
				c = request()
			}
			fresh = false
			cells++
			got := m.ask(method, c, k.key(r.scope))
			if c.refused == 0 && got.status/100 != 2 {
				t.Errorf("%s as %s = %d %.300s, want success", op.OperationID, k.name, got.status, got.body)
			}
			if c.refused != 0 && got.status != c.refused {
				t.Errorf("%s as %s = %d %.300s, want %d", op.OperationID, k.name, got.status, got.body, c.refused)
			}
		}
	})
	t.Logf("%d cells", cells)
}

// TestS06_Matrix checks that callers of another tenant reach nothing of the tenant: where a
// path or query names something of it, it is not there, and other answers have no id of it.
func TestS06_Matrix(t *testing.T) {
	m := newMatrix(t)
	kinds, cells := m.kinds(m.pg.Tenant(t)), 0
	m.each(func(method, path string, op *openapi3.Operation, request func() cell) {
		r, c := operationRule(op), request()
		if r.public {
			return // it knows no tenants
		}
		before := m.effects()
		for _, k := range kinds {
			foreign := strings.Contains(path, "{") && !c.names || c.ids
			switch got := m.ask(method, c, k.key(r.scope)); {
			case k.name == "nobody" && got.status == http.StatusUnauthorized:
			case !k.may(r) && k.name != "nobody" && got.status == http.StatusForbidden:
			case !k.may(r):
				t.Errorf("%s as %s of another tenant = %d %.200s, want it refused", op.OperationID, k.name, got.status, got.body)
			case foreign && (got.status != http.StatusNotFound || got.code() != "not-found"):
				t.Errorf("%s as %s of another tenant = %d %.200s, want 404 not-found", op.OperationID, k.name, got.status, got.body)
			case foreign:
			case got.code() == "name-taken": // the caller before made it
			case got.status/100 != 2:
				t.Errorf("%s as %s of another tenant = %d %.200s, want success", op.OperationID, k.name, got.status, got.body)
			default:
				for what, id := range m.first {
					if strings.Contains(string(got.body), id) {
						t.Errorf("%s as %s of another tenant has the %s %s: %.300s", op.OperationID, k.name, what, id, got.body)
					}
				}
			}
			cells++
		}
		if after := m.effects(); after != before {
			t.Errorf("%s as callers of another tenant changed what the tenant has: %s, was %s", op.OperationID, after, before)
		}
	})
	t.Logf("%d cells", cells)
}

// hidden are fields that only the system sets (SECURITY.md S7).
var hidden = []string{"tenant_id", "state", "status", "fence", "lease_until", "version", "verdict", "decided_by", "created_by", "cost_usd", "signature"}

// TestS07_HiddenFields checks that no operation takes a field of its body that only the system
// sets: it is refused as unknown, and nothing happens.
func TestS07_HiddenFields(t *testing.T) {
	m := newMatrix(t)
	cells := 0
	m.each(func(method, path string, op *openapi3.Operation, request func() cell) {
		c := request()
		if op.RequestBody == nil || c.refused != 0 {
			return
		}
		body, before := strings.TrimSuffix(strings.TrimPrefix(c.body, "{"), "}"), m.effects()
		if body != "" {
			body = "," + body
		}
		for _, field := range hidden {
			cells++
			r := m.do(method, c.path, `{"`+field+`":"x"`+body+`}`)
			if r.status != http.StatusBadRequest || r.code() != "unknown-field" {
				t.Errorf("%s with %s = %d %.200s, want 400 unknown-field", op.OperationID, field, r.status, r.body)
			}
		}
		if after := m.effects(); after != before {
			t.Errorf("%s with hidden fields changed %s to %s", op.OperationID, before, after)
		}
	})
	if cells < 10*len(hidden) {
		t.Errorf("%d bodies were refused, want those of all operations that take one", cells)
	}
}

// effects returns how many rows the tenant has of what operations write.
func (m *matrix) effects() string {
	m.Helper()
	var n string
	err := m.pg.Admin.QueryRow(m.Context(), `SELECT concat_ws(' ',
		(SELECT count(*) FROM nofx.event WHERE tenant_id = $1), (SELECT sum(version) FROM nofx.run WHERE tenant_id = $1), (SELECT count(*) FROM nofx.api_key WHERE tenant_id = $1 AND revoked_at IS NULL),
		(SELECT sum(version) FROM nofx.repository WHERE tenant_id = $1), (SELECT count(*) FROM nofx.oidc_trust WHERE tenant_id = $1), (SELECT count(*) FROM nofx.subject WHERE tenant_id = $1),
		(SELECT sum(version) FROM nofx.merge WHERE tenant_id = $1), (SELECT sum(version) FROM nofx.finding WHERE tenant_id = $1), (SELECT count(*) FROM nofx.artifact WHERE tenant_id = $1),
		(SELECT count(*) FROM nofx.queue_pause WHERE tenant_id = $1), (SELECT count(*) FROM nofx.project WHERE tenant_id = $1),
		(SELECT sum(version) FROM nofx.alert_endpoint WHERE tenant_id = $1), (SELECT count(*) || d.min FROM (SELECT min(due_at::text), count(*) FROM nofx.alert_delivery WHERE tenant_id = $1) AS d GROUP BY d.min),
		(SELECT sum(version) FROM nofx.secret WHERE tenant_id = $1), (SELECT settings::text FROM nofx.tenant WHERE tenant_id = $1))`, m.tenant).Scan(&n)
	if err != nil {
		m.Fatal(err)
	}
	return n
}
