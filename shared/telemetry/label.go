package telemetry

import (
	"regexp"
	"slices"
	"strings"
)

// Label is a label of a metric and the values it may take. Ids, tenants and error
// texts are never labels.
type Label struct {
	Name   string
	Values []string // the known ones, for zero-filling and for dashboards

	// fold turns a value that is not in Values into one to write, or says that
	// it is unknown. Without it exactly Values are allowed.
	fold func(string) (string, bool)
	// most is how many values beyond Values fold may give; the instrument counts.
	most int
}

// other stands for every unknown value.
const other = "other"

func oneOf(name string, values ...string) Label { return Label{Name: name, Values: values} }

// free returns a label whose values only code chooses, at most so many of them.
func free(name string, most int) Label {
	return Label{Name: name, fold: func(v string) (string, bool) { return v, true }, most: most}
}

// allow returns the value to write for v, and whether it was known.
func (l Label) allow(v string) (string, bool) {
	if slices.Contains(l.Values, v) {
		return v, true
	}
	if l.fold == nil {
		return other, false
	}
	if folded, ok := l.fold(v); ok {
		return folded, true
	}
	return other, false
}

// The labels that several metrics share.
var (
	queueLabel    = oneOf("queue", queues...)
	kindLabel     = oneOf("kind", jobKinds...)
	attemptLabel  = oneOf("attempt", "first", "retry")
	toolLabel     = Label{Name: "tool", Values: knownTools, fold: foldTool}
	gateLabel     = Label{Name: "gate", Values: append(slices.Clone(knownGates), other), fold: foldGate}
	methodLabel   = oneOf("method", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
	routeLabel    = Label{Name: "route", Values: []string{"none"}, fold: foldRoute, most: 100}
	codeLabel     = Label{Name: "code", fold: foldCode, most: 40}
	providerLabel = oneOf("provider", "openai", "anthropic", "rules", "replay")
	modelLabel    = Label{Name: "model", fold: foldModel, most: 20}
)

// The values. Tests compare those that other packages define with them.
var (
	queues      = []string{"step", "review", "maintenance"}
	jobKinds    = []string{"step"}
	jobStates   = []string{"available", "pending", "retryable", "running", "scheduled"}
	jobOutcomes = []string{"completed", "retryable", "discarded", "cancelled", "snoozed", "panic", "timeout", "fenced"}

	machines        = []string{"run", "step", "gate", "merge", "review", "finding"}
	liveRunStates   = []string{"queued", "running", "waiting", "paused"}
	finalRunStates  = []string{"succeeded", "failed", "cancelled"}
	finalStepStates = []string{"succeeded", "failed", "skipped", "cancelled"}
	allStates       = []string{
		"queued", "running", "waiting", "paused", "succeeded", "failed", "cancelled", "pending", "ready",
		"retrying", "skipped", "passed", "waived", "expired", "error",
		"open", "conflicted", "committed", "abandoned",
		"completed", "superseded", "fixed", "resolved", "dismissed",
	}
	allTransitions = []string{
		"start", "pause", "cancel", "fail", "wait", "wake", "succeed", "resume", "resume_waiting", "resume_queued",
		"retry", "deps_met", "skip", "claim", "interrupted", "lease_expired", "poison", "signal", "approve", "waive",
		"elapsed", "expire", "reject", "backoff_elapsed", "reopen", "pass", "error", "withdraw",
		"compute_clean", "compute_conflicts", "resolve_all", "unresolve", "target_moved", "commit", "abandon",
		"supersede", "complete", "fix", "resolve", "dismiss", "recur", "dismissal_expired",
	}
	attemptOutcomes = []string{"succeeded", "failed", "waiting", "retrying", "interrupted", "cancelled", "timeout", "fenced"}
	checkpointKinds = []string{"pre", "post", "gate_failed", "wait", "interrupt", "edit", "merge", "manual"}

	knownGates = []string{"typecheck", "lint", "unit", "sast", "secrets", "audit", "llm_review"}
	knownTools = []string{
		"bash", "workspace:write", "workspace:unpack", "git:checkout", "http", "sleep", "signal", "codegen",
		"sys:verify", "sys:checkpoint", "sys:archive", "sys:bisect", "sys:diff", "sys:merge", "sys:gc", "sys:verify-storage", "sys:purge", "manual:deploy", "manual:other", "gate:typecheck",
		"gate:lint", "gate:unit", "gate:sast", "gate:secrets", "gate:audit", "gate:llm_review", "gate:other",
	}

	llmOutcomes = []string{
		"ok", "refused", "truncated", "rate-limited", "unavailable", "timeout", "malformed", "too-large", "invalid",
		"unauthenticated", "forbidden", "not-found", "not-recorded", "cancelled",
	}

	alertEvents = []string{"approval.requested", "gate.failed", "run.failed"}

	pools      = []string{"requests", "heartbeat", "river", "listen"}
	failpoints = []string{
		"before_response", "after_claim", "mid_exec", "after_effect", "mid_upload", "after_put", "after_commit",
		"in_drain", "in_sweep", "in_gc", "in_rotation", "after_post", "before_effect",
	}
	eventTypes = []string{
		"run.created", "run.queued", "run.running", "run.waiting", "run.paused", "run.succeeded", "run.failed", "run.cancelled",
		"step.pending", "step.ready", "step.running", "step.waiting", "step.retrying", "step.succeeded", "step.failed",
		"step.skipped", "step.cancelled", "step.log",
		"artifact.created", "bisect.probed", "checkpoint.created", "checkpoint.marked", "checkpoint.corrupt",
		"gate.pending", "gate.passed", "gate.failed", "gate.waived", "gate.expired", "gate.error", "approval.decided",
		"merge.open", "merge.conflicted", "merge.ready", "merge.committed", "merge.abandoned",
		"review.queued", "review.running", "review.completed", "review.failed", "review.superseded", "review.posted",
		"finding.open", "finding.fixed", "finding.resolved", "finding.dismissed",
		"stream.ready", "stream.gap", "stream.end",
	}
)

// foldTool keeps only the family of a tool's name.
func foldTool(tool string) (string, bool) {
	family, _, ok := strings.Cut(tool, ":")
	if ok && (family == "gate" || family == "manual") {
		return family + ":" + other, true
	}
	return "", false
}

// foldGate accepts a gate's name with or without its family.
func foldGate(name string) (string, bool) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "gate:"), "manual:")
	if slices.Contains(knownGates, name) {
		return name, true
	}
	return other, true
}

// models are those that the administrator named, so there are few.
var modelShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$`)

func foldModel(name string) (string, bool) { return name, modelShape.MatchString(name) }

// routes are templates, as the router knows them: an id in its place has digits.
var routeShape = regexp.MustCompile(`^(?:/[a-z.-]*|/\{[a-z0-9_]+\}|/:[a-z0-9_]+|/\*)+$`)

func foldRoute(route string) (string, bool) {
	if route == "" { // no route matched
		return "none", true
	}
	return route, len(route) <= 100 && routeShape.MatchString(route)
}

var codeShape = regexp.MustCompile(`^[1-5][0-9][0-9]$`)

func foldCode(code string) (string, bool) { return code, codeShape.MatchString(code) }
