package run

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gowebpki/jcs"

	"nofx.dev/shared/fault"
)

// Limits of a plan (EXECUTION.md, Limits; API.md, Plan).
const (
	MaxSteps       = 1000
	MaxGoal        = 4096 // characters
	MaxReason      = 2048 // characters that people write
	MaxReasonBytes = 2048 // that workers write
	MaxLabels      = 64
	MaxLabel       = 255 // characters of a label's value
	MaxOutputBytes = 64 << 10
	MaxApprovals   = 20
	MaxSignalKey   = 255 // characters
	MaxPayload     = 16 << 10
	MaxEdges       = 20_000  // dependencies of all steps together
	MaxListBytes   = 4 << 10 // excludes, env_allowed, secrets and hosts, which every step carries, and tools_allowed

	DefaultStepTimeout = 10 * time.Minute
	MaxStepTimeout     = 24 * time.Hour
	RunDeadline        = 7 * 24 * time.Hour // unless the plan sets another
	MinRunDeadline     = time.Minute
	MaxRunDeadline     = 90 * 24 * time.Hour
	MaxWait            = 30 * 24 * time.Hour
)

// Plan is what a client posts: a goal and the steps that reach it.
type Plan struct {
	Goal      string            `json:"goal"`
	Workspace *Workspace        `json:"workspace,omitempty"`
	Steps     []PlanStep        `json:"steps"`
	Policy    *Policy           `json:"policy,omitempty"`
	DeadlineS *int              `json:"deadline_s,omitempty"` // from the run's start, but for the time that it is paused
	Labels    map[string]string `json:"labels,omitempty"`

	StateSchema *StateSchema `json:"state_schema,omitempty"` // how a merge treats the state of the plan's runs
}

// Workspace says what files a run starts from.
type Workspace struct {
	Source     string        `json:"source,omitempty"` // empty, the default, git or upload
	Git        *WorkspaceGit `json:"git,omitempty"`
	ArtifactID string        `json:"artifact_id,omitempty"` // of an upload: an archive
	Excludes   []string      `json:"excludes,omitempty"`
}

// WorkspaceGit is a repository at a ref, its HEAD by default.
type WorkspaceGit struct {
	URL        string `json:"url"`
	Ref        string `json:"ref,omitempty"`
	Submodules bool   `json:"submodules,omitempty"`
	LFS        bool   `json:"lfs,omitempty"`
}

// PlanStep is one step of a plan. A nil DependsOn in every step means that the
// steps run in order; an empty one, that the step waits for none.
type PlanStep struct {
	Name      string          `json:"name"`
	Tool      string          `json:"tool"`
	Inputs    json.RawMessage `json:"inputs,omitempty"`
	DependsOn []string        `json:"depends_on,omitzero"`
	TimeoutS  *int            `json:"timeout_s,omitempty"`
	Retry     *PlanRetry      `json:"retry,omitempty"`
}

// PlanRetry are a plan's settings for retries; omitted ones have defaults. See Retry.
type PlanRetry struct {
	MaxAttempts *int     `json:"max_attempts,omitempty"`
	Backoff     string   `json:"backoff,omitempty"` // exponential
	InitialS    *float64 `json:"initial_s,omitempty"`
}

// Retry is how often and how soon a step that failed as `tool` or `timeout` is
// tried again: after full jitter on initial_s × 2^n, at most five minutes.
type Retry struct {
	MaxAttempts int     `json:"max_attempts"`
	InitialS    float64 `json:"initial_s"`
}

// Policy narrows what the steps of a plan may do; it never widens it.
type Policy struct {
	ToolsAllowed []string `json:"tools_allowed,omitzero"` // names, or family:*; nil allows all
	EnvAllowed   []string `json:"env_allowed,omitempty"`
	Secrets      []string `json:"secrets,omitempty"`
	Network      *Network `json:"network,omitempty"`
}

// Spec is the part of the plan that a claim gives to the worker of a step: all that the
// step needs, so that the worker does not read the plan.
type Spec struct {
	Inputs     json.RawMessage `json:"inputs"`
	TimeoutS   int             `json:"timeout_s"`
	Retry      Retry           `json:"retry"`
	EnvAllowed []string        `json:"env_allowed,omitempty"`
	Secrets    []string        `json:"secrets,omitempty"` // of the whole plan: they are masked, and its inputs say which the step gets
	Hosts      []string        `json:"hosts,omitempty"`   // that its code may reach
	Excludes   []string        `json:"excludes,omitempty"`
}

var (
	stepName  = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	labelName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)
)

// The forms of names in words.
const (
	nameForm    = "of a to z, 0 to 9, '_', '.' and '-', and begins with a letter or digit"
	envNameForm = "must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and '_', and does not begin with a digit"
)

// ValidEnvName reports whether a variable of a step can have this name.
func ValidEnvName(name string) bool { return envName.MatchString(name) }

// Normalise fills in every default and returns the plan as it will be stored,
// or a fault.Invalid whose Fields name all that is wrong with pointers below
// /plan. The code is unknown-tool when that is all that is wrong, else
// invalid-plan. p is not changed.
func (p Plan) Normalise() (Plan, error) {
	var c checker
	if p = c.plan(p); len(c.fields) > 0 {
		return Plan{}, c.err()
	}
	return p, nil
}

// Refusal returns the error of a request with misfits. p is the part of the plan that fits.
// The error lists the misfits that [Fit] found and all other errors of the plan.
func (p Plan) Refusal(code string, misfits []fault.Field) error {
	c := checker{misfits: misfits}
	if len(misfits) < misfitsMost { // otherwise there may be more misfits, and errors that follow from them
		c.plan(p)
	}
	return fault.OfFields(code, c.named(slices.Concat(misfits, c.fields))...)
}

// plan checks p and returns it with every default.
func (c *checker) plan(p Plan) Plan {
	p.Steps = slices.Clone(p.Steps)
	c.text("/plan/goal", p.Goal, 1, MaxGoal)
	p.Workspace = c.workspace(p.Workspace)
	c.labels(p.Labels)
	c.stateSchema("/plan/state_schema", p.StateSchema)
	p.Policy = c.policy(p.Policy)
	p.DeadlineS = c.deadline(p.DeadlineS)
	switch n := len(p.Steps); {
	case n == 0:
		c.add("/plan/steps", "a plan has at least one step")
	case n > MaxSteps:
		c.add("/plan/steps", fmt.Sprintf("%d steps; a plan has at most %d", n, MaxSteps))
		return p
	}
	c.steps, c.unnamed = p.Steps, c.misfitAt(naming)
	inOrder := !slices.ContainsFunc(p.Steps, func(s PlanStep) bool { return s.DependsOn != nil })
	seen := make(map[string]int, len(p.Steps))
	templates := make([][]reference, len(p.Steps))
	for i := range p.Steps {
		at := "/plan/steps/" + strconv.Itoa(i)
		s := &p.Steps[i]
		switch {
		case inOrder && i > 0:
			s.DependsOn = []string{p.Steps[i-1].Name}
		case s.DependsOn == nil:
			s.DependsOn = []string{}
		}
		c.step(at, s, p.Policy)
		templates[i] = c.references(at+"/inputs", s)
		if j, dup := seen[s.Name]; dup {
			c.add(at+"/name", fmt.Sprintf("%q is also the name of step %d", s.Name, j))
		}
		seen[s.Name] = i
	}
	acyclic := c.dependencies(p.Steps, seen)
	c.resolvable(p.Steps, seen, templates, acyclic)
	if acyclic && goodDeadline(*p.DeadlineS) && !c.unsure("/plan", "deadline_s") {
		c.waits(p.Steps, seen, float64(*p.DeadlineS))
	}
	return p
}

// Spec returns the spec of step i of a normalised plan.
func (p Plan) Spec(i int) Spec {
	s := p.Steps[i]
	spec := Spec{Inputs: s.Inputs, TimeoutS: *s.TimeoutS, Retry: Retry{*s.Retry.MaxAttempts, *s.Retry.InitialS}, Excludes: excludes(p.Workspace)}
	if p.Policy != nil {
		spec.EnvAllowed, spec.Secrets = p.Policy.EnvAllowed, p.Policy.Secrets
	}
	if row, _ := ToolOf(s.Tool); row.Network() {
		spec.Hosts = p.hosts()
	}
	return spec
}

// Canonical returns the plan in RFC 8785 form and its digest, sha256:<hex>.
func (p Plan) Canonical() (doc []byte, digest string, err error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, "", fmt.Errorf("plan as JSON: %w", err)
	}
	if doc, err = jcs.Transform(raw); err != nil {
		return nil, "", fmt.Errorf("plan in canonical form: %w", err)
	}
	sum := sha256.Sum256(doc)
	return doc, "sha256:" + hex.EncodeToString(sum[:]), nil
}

func excludes(w *Workspace) []string {
	if w == nil {
		return nil
	}
	return w.Excludes
}

// checker collects the errors of a plan.
type checker struct {
	fields      []fault.Field
	misfits     []fault.Field // found before; the values at these places are unknown
	steps       []PlanStep
	unnamed     bool // the names of some steps could not be read
	suggested   int  // number of searches for the nearest step name
	unknownTool int
	templates   bool // templates stand for values that are not known yet
}

// add adds an error, unless it only follows from a misfit.
func (c *checker) add(pointer, detail string) {
	if !c.unfit(pointer) {
		c.fields = append(c.fields, fault.Field{Pointer: pointer, Detail: detail})
	}
}

// unfit reports whether a pointer names a misfit or something inside a misfit.
func (c *checker) unfit(pointer string) bool {
	return slices.ContainsFunc(c.misfits, func(m fault.Field) bool {
		rest, within := strings.CutPrefix(pointer, m.Pointer)
		return within && (rest == "" || rest[0] == '/')
	})
}

// unsure reports whether the values of these members of the object at a pointer are
// unknown: one of them does not fit, or an unknown member may be one of them misspelt.
// Errors that depend on their values must then not be reported.
func (c *checker) unsure(at string, members ...string) bool {
	return slices.ContainsFunc(c.misfits, func(m fault.Field) bool {
		place, within := strings.CutPrefix(m.Pointer, at+"/")
		member, _, deeper := strings.Cut(place, "/")
		return within && (slices.Contains(members, member) || !deeper && strings.HasPrefix(m.Detail, "unknown "))
	})
}

func (c *checker) err() error {
	code := "invalid-plan"
	if c.unknownTool == len(c.fields) {
		code = "unknown-tool"
	}
	return fault.OfFields(code, c.named(c.fields)...)
}

// named returns the errors with the names of their steps filled in.
func (c *checker) named(fields []fault.Field) []fault.Field {
	for i, f := range fields {
		rest, of := strings.CutPrefix(f.Pointer, "/plan/steps/")
		n, err := strconv.Atoi(strings.Split(rest, "/")[0])
		if of && err == nil && n < len(c.steps) && len(c.steps[n].Name) <= 64 && BadText(c.steps[n].Name) == "" {
			fields[i].Step = c.steps[n].Name
		}
	}
	return fields
}

// text checks a text that the contract limits by characters, and size one that is limited
// by bytes.
func (c *checker) text(at, s string, shortest, longest int) {
	c.length(at, s, utf8.RuneCountInString(s), "characters", shortest, longest)
}

func (c *checker) size(at, s string, shortest, longest int) {
	c.length(at, s, len(s), "bytes", shortest, longest)
}

func (c *checker) length(at, s string, n int, unit string, shortest, longest int) {
	switch {
	case n < shortest:
		c.add(at, "is required")
	case n > longest:
		c.add(at, fmt.Sprintf("%d %s; at most %d", n, unit, longest))
	}
	if detail := BadText(s); detail != "" {
		c.add(at, detail)
	}
}

// BadText returns why Postgres would never accept s, or "".
func BadText(s string) string {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return "contains a NUL character"
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	}
	return ""
}

func (c *checker) labels(labels map[string]string) {
	if len(labels) > MaxLabels {
		c.add("/plan/labels", fmt.Sprintf("%d labels; at most %d", len(labels), MaxLabels))
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		at := "/plan/labels/" + pointerToken(name)
		if !labelName.MatchString(name) {
			c.add(at, "a label's name must have 1 to 63 characters, "+nameForm)
		}
		c.text(at, labels[name], 0, MaxLabel)
	}
}

// list checks texts with a common limit.
func (c *checker) list(at string, texts []string) {
	bytes := 0
	for i, s := range texts {
		c.size(at+"/"+strconv.Itoa(i), s, 1, MaxListBytes)
		bytes += len(s)
	}
	if bytes > MaxListBytes {
		c.add(at, fmt.Sprintf("%d bytes in all; at most %d", bytes, MaxListBytes))
	}
}

// policy checks a policy and returns it as it is stored.
func (c *checker) policy(given *Policy) *Policy {
	if given == nil {
		return nil
	}
	p := *given
	p.Network = c.network(p.Network)
	c.list("/plan/policy/tools_allowed", p.ToolsAllowed)
	c.list("/plan/policy/env_allowed", p.EnvAllowed)
	for i, name := range p.EnvAllowed {
		if !envName.MatchString(name) {
			c.add("/plan/policy/env_allowed/"+strconv.Itoa(i), "a variable's name "+envNameForm)
		}
	}
	c.list("/plan/policy/secrets", p.Secrets)
	for i, name := range p.Secrets {
		if detail := BadSecretName(name); detail != "" {
			c.add("/plan/policy/secrets/"+strconv.Itoa(i), "the name "+detail)
		}
	}
	return &p
}

func (c *checker) step(at string, s *PlanStep, policy *Policy) {
	if !stepName.MatchString(s.Name) {
		c.add(at+"/name", "a step's name must have 1 to 64 characters, "+nameForm)
	}
	if len(s.Inputs) == 0 || string(s.Inputs) == "null" {
		s.Inputs = json.RawMessage(`{}`)
	}
	switch {
	case !KnownTool(s.Tool):
		c.unknownTool++
		c.add(at+"/tool", fmt.Sprintf("unknown tool %.80q", s.Tool)+suggestion(s.Tool, toolNames(), "the tools are "))
	case !policy.allows(s.Tool) && !c.unsure("/plan/policy", "tools_allowed"):
		c.add(at+"/tool", fmt.Sprintf("%q is not in the plan's tools_allowed", s.Tool))
	default:
		for _, f := range checkInputs(s.Tool, s.Inputs, true) {
			c.add(at+"/inputs"+f.Pointer, f.Detail)
		}
		c.stepSecrets(at, s, policy)
	}
	if s.TimeoutS == nil {
		s.TimeoutS = new(int(DefaultStepTimeout.Seconds()))
	}
	if *s.TimeoutS < 1 || *s.TimeoutS > int(MaxStepTimeout.Seconds()) {
		c.add(at+"/timeout_s", fmt.Sprintf("must be between 1 and %d", int(MaxStepTimeout.Seconds())))
	}
	s.Retry = c.retry(at+"/retry", s.Retry)
}

func (c *checker) retry(at string, given *PlanRetry) *PlanRetry {
	r := PlanRetry{}
	if given != nil {
		r = *given
	}
	if r.MaxAttempts == nil {
		r.MaxAttempts = new(1)
	}
	if r.InitialS == nil {
		r.InitialS = new(1.0)
	}
	if r.Backoff == "" {
		r.Backoff = "exponential"
	}
	if *r.MaxAttempts < 1 || *r.MaxAttempts > 100 {
		c.add(at+"/max_attempts", "must be between 1 and 100")
	}
	if r.Backoff != "exponential" {
		c.add(at+"/backoff", "must be \"exponential\"")
	}
	if !(*r.InitialS >= 0.01 && *r.InitialS <= 300) {
		c.add(at+"/initial_s", "must be between 0.01 and 300")
	}
	return &r
}

// allows reports whether the policy lets a plan use tool. No list allows all.
func (p *Policy) allows(tool string) bool {
	if p == nil || p.ToolsAllowed == nil {
		return true
	}
	return slices.ContainsFunc(p.ToolsAllowed, func(pattern string) bool {
		if family, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(tool, family)
		}
		return tool == pattern
	})
}

func pointerToken(s string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
}
