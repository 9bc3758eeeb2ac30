package run

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

// Inputs decodes the inputs of a step strictly: an unknown or repeated member, or a value
// of another type, is a fault.Invalid that names it.
func Inputs[T any](raw []byte) (T, error) {
	var v, zero T
	misfits, _ := fit(raw, &v, "input")
	if len(misfits) == 0 {
		return v, nil
	}
	e := fault.New(fault.Invalid, "invalid-plan", "inputs%s: %s", misfits[0].Pointer, misfits[0].Detail)
	e.Fields = misfits
	return zero, e
}

// checkInputs returns the errors in the inputs of a known tool. If open is true, templates
// are resolved later; otherwise they are plain text.
func checkInputs(tool string, raw []byte, open bool) []fault.Field {
	t, _ := ToolOf(tool)
	return t.inputs(&checker{templates: open}, raw)
}

// inputs returns the check of a row of the tool table: it decodes the inputs and applies
// the rules.
func inputs[T any](rules func(*checker, T)) func(*checker, []byte) []fault.Field {
	return func(c *checker, raw []byte) []fault.Field {
		var in T
		var read bool
		if c.misfits, read = fit(raw, &in, "input"); read {
			rules(c, in)
		}
		return append(c.misfits, c.fields...)
	}
}

func (c *checker) bash(in BashInputs) {
	c.script("/script", in.Script)
	c.env(in.Env)
}

func (c *checker) write(in WriteInputs) {
	for i, f := range in.Files {
		c.file("/files/"+strconv.Itoa(i), f)
	}
}

// repositoryName is what forges call a repository: OWNER/NAME. Names of dots alone would be
// steps in the paths of their APIs.
var repositoryName = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,99}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}/[A-Za-z0-9_.-]{0,99}[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$`)

// commitSHA is the name of a commit, and shortSHA that of one at Bitbucket, which has the
// beginning of the full name at the least.
var (
	commitSHA = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)
	shortSHA  = regexp.MustCompile(`^[0-9a-f]{12,64}$`)
)

func (c *checker) review(in ReviewInputs) {
	forge := in.Provider != ""
	switch sources := slices.DeleteFunc([]bool{in.Diff != "", in.ArtifactID != "", forge}, func(b bool) bool { return !b }); {
	case len(sources) != 1:
		c.add("", `needs one of: "diff": "workspace"; "artifact_id", of a unified diff; "provider", with "repository" and "pull_request"`)
	case in.Diff != "" && in.Diff != WorkspaceDiff:
		c.add("/diff", `must be "workspace"`)
	}
	if forge && in.Provider != review.GitHub && in.Provider != review.Bitbucket {
		c.add("/provider", "must be github or bitbucket")
	}
	switch { // what a workspace or a diff has not got would be taken for something else
	case in.Diff != "" && in.Repository != "":
		c.add("/repository", "belongs to a pull request or a posted diff")
	case (forge || in.Repository != "" || in.Diff == "" && in.PullRequest != 0) && !repositoryName.MatchString(in.Repository):
		c.add("/repository", "must be OWNER/NAME")
	}
	switch {
	case in.Diff != "" && in.PullRequest != 0:
		c.add("/pull_request", "belongs to a pull request or a posted diff")
	case forge && in.PullRequest < 1 || in.PullRequest < 0 || in.PullRequest > math.MaxInt32:
		c.add("/pull_request", "must be the number of a pull request")
	}
	switch {
	case in.HeadSHA == "":
	case !forge && (in.Diff != "" || in.ArtifactID != ""):
		c.add("/head_sha", "belongs to a pull request")
	case in.Provider == review.Bitbucket:
		if !shortSHA.MatchString(in.HeadSHA) {
			c.add("/head_sha", "must be the name of a commit, or its first 12 hexadecimal digits or more, in lower case")
		}
	case !commitSHA.MatchString(in.HeadSHA):
		c.add("/head_sha", "must be the full name of a commit: 40 or 64 hexadecimal digits in lower case")
	}
	if in.Reuse != "" && in.Reuse != ReuseNone {
		c.add("/reuse", "must be none, or absent")
	}
	if in.Against != "" {
		if _, err := CheckpointID.Parse(in.Against); err != nil || in.Diff != WorkspaceDiff {
			c.add("/against", `must be the id of a checkpoint, beside "diff": "workspace"`)
		}
	}
	if in.ArtifactID != "" {
		if _, err := ArtifactID.Parse(in.ArtifactID); err != nil {
			c.add("/artifact_id", "must be the id of an artifact")
		}
	}
}

func (c *checker) sleep(in SleepInputs) {
	if in.DurationS < 0 || in.DurationS > MaxWait.Seconds() {
		c.add("/duration_s", fmt.Sprintf("must be between 0 and %d", int(MaxWait.Seconds())))
	}
}

func (c *checker) signal(in SignalInputs) {
	c.text("/key", in.Key, 1, MaxSignalKey)
	c.wait(in.ExpiresS)
}

// PlainGate returns the gate's inputs that a workspace holds with $${{ read as a plain
// ${{, as in a plan, and a fault for each template: none is filled in there. [CheckGate]
// checks the rest.
func PlainGate(in GateInputs) (GateInputs, []fault.Field) {
	var c checker
	plain := func(at, s string) string {
		if strings.Contains(strings.ReplaceAll(s, plainBegin, ""), templateBegin) {
			c.add(at, "contains a template, but templates are not expanded here; "+plainBegin+" stands for a plain "+templateBegin)
		}
		return strings.ReplaceAll(s, plainBegin, templateBegin)
	}
	in.Command, in.Env = plain("/command", in.Command), maps.Clone(in.Env)
	for _, name := range slices.Sorted(maps.Keys(in.Env)) {
		in.Env[name] = plain("/env/"+pointerToken(name), in.Env[name])
	}
	if len(in.Secrets) > 0 {
		c.add("/secrets", "a step of the plan asks for secrets, and nothing else does")
	}
	if in.Report != nil {
		r := *in.Report
		r.Path = plain("/report/path", r.Path)
		in.Report = &r
	}
	return in, c.fields
}

// CheckGate returns the errors in the inputs of a gate, merged from its step and the
// workspace.
func CheckGate(in GateInputs) []fault.Field {
	var c checker
	c.gate(in)
	return c.fields
}

func (c *checker) gate(in GateInputs) {
	if in.Command != "" {
		c.script("/command", in.Command)
	}
	c.env(in.Env)
	if in.Report != nil {
		c.report(*in.Report)
		if in.Report.Format == "gotest" && in.Report.Flaky == FlakyPasses && failsFast(in) {
			c.add("/report/flaky", `"pass" cannot be combined with -failfast: the tests after the first failure do not run, and a rerun does not replace them`)
		}
	}
}

var failfast = regexp.MustCompile(`(?:^|[^\w-])--?(?:test\.)?failfast(?:=(?:1|[tT]|true|TRUE|True))?(?:$|[^\w=.-])`)

// failsFast reports whether a gate's command visibly runs go test with -failfast.
func failsFast(in GateInputs) bool {
	return failfast.MatchString(in.Command) || slices.ContainsFunc(slices.Collect(maps.Values(in.Env)), failfast.MatchString)
}

func (c *checker) report(r GateReport) {
	const at = "/report"
	c.oneOf(at+"/format", r.Format, ReportFormats...)
	c.glob(at+"/path", r.Path)
	if r.FailOn != "" {
		c.oneOf(at+"/fail_on", r.FailOn, FailLevels...)
	}
	if r.Flaky != "" {
		c.oneOf(at+"/flaky", r.Flaky, FlakyPasses, FlakyFails)
	}
	switch {
	case c.open(r.Format) || c.unsure(at, "format") || !slices.Contains(ReportFormats, r.Format):
	case r.Format == "sarif" && (r.Flaky != "" || r.AllowEmpty):
		c.add(at, "flaky and allow_empty are for reports of tests; SARIF has findings")
	case r.Format != "sarif" && r.FailOn != "":
		c.add(at+"/fail_on", "is only for sarif; tests have no level")
	}
}

// oneOf checks that a value is one of a list.
func (c *checker) oneOf(at, s string, values ...string) {
	if !c.open(s) && !slices.Contains(values, s) {
		c.add(at, "must be one of "+strings.Join(values, ", "))
	}
}

// ofSteps matches a template of this system; an instruction may contain other templates,
// such as those of a forge's workflows.
var ofSteps = regexp.MustCompile(`\$\{\{\s*steps\.`)

var modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$`)

func (c *checker) codegen(in CodegenInputs) {
	c.size("/instruction", in.Instruction, 1, MaxInstructionBytes)
	if c.templates && ofSteps.MatchString(strings.ReplaceAll(in.Instruction, plainBegin, "")) {
		c.add("/instruction", "templates are not expanded here, since a step's output must not become an instruction; write it to a file and name the file in paths")
	}
	if len(in.Paths) > MaxCodegenPaths {
		c.add("/paths", fmt.Sprintf("%d patterns; at most %d", len(in.Paths), MaxCodegenPaths))
	}
	for i, p := range in.Paths {
		c.glob("/paths/"+strconv.Itoa(i), p)
	}
	if in.Model != "" && !c.open(in.Model) && !modelName.MatchString(in.Model) {
		c.add("/model", "a model's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and ._:/@-, and begins with a letter or digit")
	}
	if in.MaxTokens != nil && (*in.MaxTokens < 1 || *in.MaxTokens > MaxCodegenTokens) {
		c.add("/max_tokens", fmt.Sprintf("must be between 1 and %d", MaxCodegenTokens))
	}
}

// open reports whether s has a template, so that its value is not known yet.
func (c *checker) open(s string) bool { return c.templates && strings.Contains(s, templateBegin) }

// script refuses templates, since text inserted into a shell script is an injection, and
// scripts that do nothing, since they succeed for any code.
func (c *checker) script(at, s string) {
	c.size(at, s, 1, 256<<10)
	switch {
	case s == "":
	case strings.TrimSpace(s) == "":
		c.add(at, "is blank")
	case !hasCommand(s):
		c.add(at, "holds only comments")
	}
	if c.templates && strings.Contains(strings.ReplaceAll(s, plainBegin, ""), templateBegin) {
		c.add(at, `templates are not expanded here; pass the value by env and use "$NAME"; $${{ stands for a plain ${{`)
	}
}

// hasCommand reports whether a script has a line that is neither blank nor a comment.
func hasCommand(script string) bool {
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line != "" && line != `\` && line[0] != '#' {
			return true
		}
	}
	return false
}

func (c *checker) env(env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		at := "/env/" + pointerToken(name)
		if !envName.MatchString(name) {
			c.add(at, "a variable's name "+envNameForm)
		}
		if strings.HasPrefix(name, "NOFX_") {
			c.add(at, "names that begin with NOFX_ are set by the worker")
		}
		c.size(at, env[name], 0, 32<<10)
	}
}

func (c *checker) file(at string, f WriteFile) {
	if !c.open(f.Path) {
		if detail := BadPath(f.Path); detail != "" {
			c.add(at+"/path", detail)
		}
	}
	given := 0
	for _, is := range []bool{f.Content != nil, f.ContentBase64 != nil, f.ArtifactID != ""} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		if given == 0 && c.unsure(at, "content", "content_base64", "artifact_id") {
			break
		}
		c.add(at, "must have exactly one of content, content_base64 and artifact_id")
	case f.ArtifactID != "":
		if !c.open(f.ArtifactID) {
			c.artifact(at+"/artifact_id", f.ArtifactID)
		}
	default:
		c.content(at, f)
	}
	if f.Mode != "" && !c.open(string(f.Mode)) && f.Mode != "644" && f.Mode != "755" {
		c.add(at+"/mode", `must be "644" or "755"`)
	}
}

func (c *checker) content(at string, f WriteFile) {
	if _, err := f.Bytes(); err != nil && !c.open(*f.ContentBase64) {
		c.add(at+"/content_base64", "is not base64")
	} else if f.Content != nil && BadText(*f.Content) != "" {
		c.add(at+"/content", BadText(*f.Content)+"; give it as content_base64")
	}
}

// reservedName is the folder in which a repository says how it wants to be worked on, such as
// the policy of its reviews. It comes with the repository: nothing in a plan writes there.
const reservedName = ".nofx"

// BadPath returns why s is not a relative path in a workspace that a plan, a person or a
// model may name, or "".
func BadPath(s string) string {
	detail := BadFile(s)
	if detail == "" && slices.Contains(strings.Split(s, "/"), reservedName) {
		return "has the reserved element " + reservedName
	}
	return detail
}

// BadFile returns why s is not a relative path in a workspace, or "".
func BadFile(s string) string {
	switch {
	case s == "":
		return "is required"
	case len(s) > 1024:
		return "is longer than 1024 bytes"
	case BadText(s) != "":
		return BadText(s)
	case strings.HasPrefix(s, "/"):
		return "is absolute"
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return "has an empty, . or .. element"
		}
	}
	return ""
}

const maxURL = 2000 // characters

var gitURL = regexp.MustCompile(`^(https|file)://\S+$`)

func (c *checker) checkout(in CheckoutInputs) {
	c.repository("", in.URL, in.Ref)
	if in.Path != "" && !c.open(in.Path) {
		if detail := BadPath(in.Path); detail != "" {
			c.add("/path", detail)
		}
	}
	if in.Depth != nil && *in.Depth < 0 {
		c.add("/depth", "must be 0 or more")
	}
}

func (c *checker) repository(at, url, ref string) {
	if !c.open(url) && (!gitURL.MatchString(url) || utf8.RuneCountInString(url) > maxURL || BadText(url) != "") {
		c.add(at+"/url", fmt.Sprintf("must be an https:// or file:// address of at most %d characters", maxURL))
	}
	if detail := BadRef(ref); ref != "" && detail != "" && !c.open(ref) {
		c.add(at+"/ref", detail+"; give a branch, a tag or a commit")
	}
}

func (c *checker) manual(in ManualInputs) {
	c.text("/message", in.Message, 1, 4096)
	c.wait(in.ExpiresS)
	if in.Approvals != nil && (*in.Approvals < 1 || *in.Approvals > MaxApprovals) {
		c.add("/approvals", fmt.Sprintf("must be between 1 and %d", MaxApprovals))
	}
}

func (c *checker) wait(expiresS *int) {
	if expiresS != nil && (*expiresS < 1 || *expiresS > int(MaxWait.Seconds())) {
		c.add("/expires_s", fmt.Sprintf("must be between 1 and %d", int(MaxWait.Seconds())))
	}
}
