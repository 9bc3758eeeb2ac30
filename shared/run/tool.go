package run

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

// The tools of this deployment. Those that end in a colon are families: any
// name of [a-z0-9][a-z0-9_.-]* may follow.
const (
	ToolBash           = "bash"
	ToolWorkspaceWrite = "workspace:write"
	ToolGitCheckout    = "git:checkout"
	ToolHTTP           = "http"
	ToolSleep          = "sleep"
	ToolSignal         = "signal"
	ToolCodegen        = "codegen"
	ManualFamily       = "manual:"
	GateFamily         = "gate:"
	ToolReview         = "gate:llm_review"

	// ToolUnpack is not for plans to name: it brings an uploaded workspace in.
	ToolUnpack = "workspace:unpack"

	// ToolVerify is the system step that verifies an upload.
	ToolVerify = "sys:verify"

	// ToolCheckpoint is the system step that makes a manual checkpoint of a run.
	ToolCheckpoint = "sys:checkpoint"

	// ToolArchive is the system step that packs the workspace of a checkpoint.
	ToolArchive = "sys:archive"

	// ToolBisect is the system step that looks for the checkpoint at which a command began
	// to fail. It runs code, so its queue is that of other such steps.
	ToolBisect = "sys:bisect"

	// ToolDiff is the system step that computes what lies between two checkpoints.
	ToolDiff = "sys:diff"

	// ToolMerge is the system step that computes a merge of two runs.
	ToolMerge = "sys:merge"

	// ToolGC is the system step that deletes what no checkpoint needs from storage.
	ToolGC = "sys:gc"

	// ToolVerifyStorage is the system step that compares rows and objects.
	ToolVerifyStorage = "sys:verify-storage"

	// ToolPurge is the system step that deletes the bytes of purged content.
	ToolPurge = "sys:purge"
)

// FileUse says how a tool uses the run's files.
type FileUse int

// The uses of files, each more than the one before.
const (
	NoFiles      FileUse = iota
	ReadsFiles           // its changes of the workspace are dropped at the end of the step
	ChangesFiles         // its successors start from its changes
)

// Tool is a row of the tool table: the facts that gateway and worker share about a tool or
// a family of tools. A new tool is a row here and a handler in the worker.
type Tool struct {
	Name   string // as plans name it; one that ends in a colon is a family
	Queue  string // that serves it
	Code   bool   // runs code of the plan or of a repository, which needs a sandbox (SECURITY.md §12)
	Files  FileUse
	Gate   GateKind // "": it is no gate
	Waits  bool     // does nothing itself: its step waits, holds no worker and has no log
	System bool     // the step of a system run, without workspace and checkpoints; plans cannot name it
	Text   string   // pointer of the input that is text for a shell or a model, and so takes no templates

	internal bool     // not for plans to name
	outputs  []string // nil: any that the step writes. A dot ends the names of outputs that may be objects or lists
	inputs   func(*checker, []byte) []fault.Field
	wait     func(inputs []byte) (input string, seconds float64) // that its inputs declare
}

// tools is the tool table.
var tools = []Tool{
	{Name: ToolBash, Queue: StepQueue, Code: true, Files: ChangesFiles, Text: "/script", inputs: inputs((*checker).bash)},
	{Name: ToolWorkspaceWrite, Queue: StepQueue, Files: ChangesFiles, outputs: []string{"files.", "total"}, inputs: inputs((*checker).write)},
	{Name: ToolGitCheckout, Queue: StepQueue, Code: true, Files: ChangesFiles, outputs: []string{"commit"}, inputs: inputs((*checker).checkout)},
	{Name: ToolHTTP, Queue: StepQueue, outputs: []string{"status", "headers.", "body", "json.", "truncated"}, inputs: inputs((*checker).http)},
	{Name: ToolSleep, Queue: StepQueue, Waits: true, outputs: []string{}, inputs: inputs((*checker).sleep), wait: sleepWait},
	{Name: ToolSignal, Queue: StepQueue, Waits: true, outputs: []string{"payload."}, inputs: inputs((*checker).signal), wait: declared(func(in SignalInputs) *int { return in.ExpiresS })},
	{Name: ToolCodegen, Queue: ReviewQueue, Files: ChangesFiles, Text: "/instruction", outputs: []string{"files.", "total", "model", "tokens"}, inputs: inputs((*checker).codegen)},
	{Name: GateFamily, Queue: StepQueue, Code: true, Files: ReadsFiles, Gate: CommandGate, Text: "/command", outputs: []string{"verdict"}, inputs: inputs((*checker).gate)},
	{Name: ManualFamily, Queue: StepQueue, Gate: ManualGate, Waits: true, outputs: []string{"decision", "by", "by_name", "reason"}, inputs: inputs((*checker).manual), wait: declared(func(in ManualInputs) *int { return in.ExpiresS })},
	{Name: ToolReview, Queue: ReviewQueue, Gate: ReviewGate, outputs: []string{"verdict", "review_id", "findings", "blocking"}, inputs: inputs((*checker).review)},
	{Name: ToolUnpack, Queue: StepQueue, Files: ChangesFiles, internal: true, inputs: inputs(func(*checker, UnpackInputs) {})},
	{Name: ToolVerify, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, VerifyInputs) {})},
	{Name: ToolCheckpoint, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, CheckpointInputs) {})},
	{Name: ToolArchive, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, ArchiveInputs) {})},
	{Name: ToolBisect, Queue: StepQueue, Code: true, System: true, internal: true, Text: "/command", inputs: inputs((*checker).bisect)},
	{Name: ToolDiff, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, DiffInputs) {})},
	{Name: ToolMerge, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, MergeInputs) {})},
	{Name: ToolGC, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, GCInputs) {})},
	{Name: ToolVerifyStorage, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, VerifyStorageInputs) {})},
	{Name: ToolPurge, Queue: MaintenanceQueue, System: true, internal: true, inputs: inputs(func(*checker, PurgeInputs) {})},
}

// Network reports whether the steps of a tool can reach the hosts that their plan asks for:
// code of the plan. What git:checkout fetches is the worker's choice.
func (t Tool) Network() bool { return t.Code && !t.System && t.Name != ToolGitCheckout }

// Tools returns the tool table.
func Tools() []Tool { return slices.Clone(tools) }

// ToolOf returns the row of a tool, its own before that of its family, and false for one
// that this deployment does not have.
func ToolOf(name string) (row Tool, known bool) {
	for _, t := range tools {
		rest, family := strings.CutPrefix(name, t.Name)
		switch {
		case t.Name == name && !strings.HasSuffix(name, ":"):
			return t, true
		case family && strings.HasSuffix(t.Name, ":") && stepName.MatchString(rest):
			row, known = t, true
		}
	}
	return row, known
}

// KnownTool reports whether plans may name a tool.
func KnownTool(name string) bool {
	t, ok := ToolOf(name)
	return ok && !t.internal
}

// toolNames returns the names of the tools for people.
func toolNames() (names []string) {
	for _, t := range tools {
		switch {
		case t.internal:
		case strings.HasSuffix(t.Name, ":"):
			names = append(names, t.Name+"<name>")
		default:
			names = append(names, t.Name)
		}
	}
	return names
}

// The queues of steps. Those of review need the credentials of a model or a forge,
// and run no code of a plan; those of maintenance are system steps.
const (
	StepQueue        = "step"
	ReviewQueue      = "review"
	MaintenanceQueue = "maintenance"
)

// BashInputs are the inputs of tool bash.
type BashInputs struct {
	Script  string            `json:"script"`
	Env     map[string]string `json:"env,omitempty"`
	Secrets []string          `json:"secrets,omitempty"` // of the plan's policy, for the environment
}

// WriteInputs are the inputs of tool workspace:write.
type WriteInputs struct {
	Files []WriteFile `json:"files"`
}

// WriteFile is one file to write: its content as text, in base64, or the bytes of
// an artifact.
type WriteFile struct {
	Path          string   `json:"path"`
	Content       *string  `json:"content,omitempty"`
	ContentBase64 *string  `json:"content_base64,omitempty"`
	ArtifactID    string   `json:"artifact_id,omitempty"`
	Mode          FileMode `json:"mode,omitempty"`
}

// FileMode is the mode of a file to write: 644, the default, or 755.
type FileMode string

// UnpackInputs are the inputs of the tool that unpacks a workspace.
type UnpackInputs struct {
	ArtifactID string `json:"artifact_id"`
}

// VerifyInputs are the inputs of the tool that verifies an upload.
type VerifyInputs struct {
	ArtifactID string `json:"artifact_id"`
	ETag       string `json:"etag"` // of what was put when it was asked for
}

// CheckpointInputs are the inputs of the tool that makes a manual checkpoint. Ids are in
// their public form.
type CheckpointInputs struct {
	RunID        string   `json:"run_id"`
	CheckpointID string   `json:"checkpoint_id"` // of the one to make
	Leaves       []string `json:"leaves"`        // the checkpoints that it joins
	Label        string   `json:"label,omitempty"`
}

// ArchiveInputs are the inputs of the tool that packs the workspace of a checkpoint.
type ArchiveInputs struct {
	RunID        string `json:"run_id"`
	CheckpointID string `json:"checkpoint_id"`
}

// DiffVersion is that of the form of stored diffs: one of another version is computed anew.
const DiffVersion = 1

// DiffInputs are the inputs of the tool that computes a diff.
type DiffInputs struct {
	From  string `json:"from,omitempty"`  // checkpoint; "": before the first one of a run
	To    string `json:"to"`              // checkpoint
	Path  string `json:"path,omitempty"`  // only files at it and below it
	First int    `json:"first,omitempty"` // change of the page
}

// Options returns what of a diff is asked for, besides its checkpoints.
func (d DiffInputs) Options() string {
	return fmt.Sprintf("%d:%d:%s", DiffVersion, d.First, d.Path)
}

// GCInputs are the inputs of the tool that collects garbage.
type GCInputs struct {
	DryRun bool `json:"dry_run"` // nothing is deleted
}

// VerifyStorageInputs are the inputs of the tool that compares rows and objects.
type VerifyStorageInputs struct {
	Deep bool `json:"deep"` // all bytes are read
}

// PurgeInputs are the inputs of the tool that deletes the bytes of purged content.
type PurgeInputs struct {
	SHA256 string `json:"sha256"` // in hex digits
}

// Bytes returns the content of a file that does not name an artifact.
func (f WriteFile) Bytes() ([]byte, error) {
	if f.ContentBase64 != nil {
		return base64.StdEncoding.DecodeString(*f.ContentBase64)
	}
	return []byte(*f.Content), nil
}

// CheckoutInputs are the inputs of tool git:checkout.
type CheckoutInputs struct {
	URL   string `json:"url"`
	Ref   string `json:"ref,omitempty"`
	Path  string `json:"path,omitempty"`
	Depth *int   `json:"depth,omitempty"` // 1 by default, 0 for all of the history

	Submodules bool `json:"submodules,omitempty"` // fetches them, and theirs
	LFS        bool `json:"lfs,omitempty"`        // fetches the files of Git LFS, those of submodules too
}

// SleepInputs are the inputs of tool sleep.
type SleepInputs struct {
	DurationS float64 `json:"duration_s"`
}

// SignalInputs are the inputs of tool signal.
type SignalInputs struct {
	Key      string `json:"key"`
	ExpiresS *int   `json:"expires_s,omitempty"` // 24 h by default
}

// Expires returns how long a step waits for its signal.
func (s SignalInputs) Expires() time.Duration { return expires(s.ExpiresS) }

func expires(seconds *int) time.Duration {
	if seconds == nil {
		return 24 * time.Hour
	}
	return time.Duration(*seconds) * time.Second
}

// ManualInputs are the inputs of the tools manual:*.
type ManualInputs struct {
	Message   string `json:"message"`
	ExpiresS  *int   `json:"expires_s,omitempty"` // 24 h by default
	Approvals *int   `json:"approvals,omitempty"` // number of people who must approve, 1 by default
}

// Expires returns how long a manual step waits for its decision.
func (m ManualInputs) Expires() time.Duration { return expires(m.ExpiresS) }

// GateInputs are the inputs of command gates. Without a command, the workspace's
// own for the gate's name is run.
type GateInputs struct {
	Command string            `json:"command,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Secrets []string          `json:"secrets,omitempty"` // of the plan's policy, for the environment
	Report  *GateReport       `json:"report,omitempty"`
}

// GateReport describes the report that a gate's command writes: its format, its path, and
// the findings that do not pass.
type GateReport struct {
	Format     string `json:"format"`                // one of ReportFormats
	Path       string `json:"path"`                  // in the workspace; a glob stands for all files that it matches
	FailOn     string `json:"fail_on,omitempty"`     // SARIF: one of FailLevels, error by default; it fails for findings of that level or a worse one
	Flaky      string `json:"flaky,omitempty"`       // for tests that failed and then passed: FlakyPasses or FlakyFails; by default as the JUnit report counts them, and FlakyFails for gotest
	AllowEmpty bool   `json:"allow_empty,omitempty"` // JUnit and gotest: a report without any test passes
}

// Treatment of flaky tests.
const (
	FlakyPasses = "pass"
	FlakyFails  = "fail"
)

// FailLevels are the levels of SARIF that findings may fail a gate for, the worst first.
var FailLevels = []string{"error", "warning", "note"}

// ReportFormats are the reports that gates understand: JUnit XML, SARIF 2.1.0, and
// what `go test -json` prints.
var ReportFormats = []string{"junit", "sarif", "gotest"}

// ReviewInputs are the inputs of gate:llm_review. What is reviewed is one of: the changes of
// the run's workspace, a diff that is an artifact, or a pull request.
type ReviewInputs struct {
	Diff        string          `json:"diff,omitempty"`         // WorkspaceDiff
	Against     string          `json:"against,omitempty"`      // of WorkspaceDiff: the checkpoint to compare with; by default the tree that the run began with
	ArtifactID  string          `json:"artifact_id,omitempty"`  // a unified diff
	Provider    review.Provider `json:"provider,omitempty"`     // of a pull request: github or bitbucket
	Repository  string          `json:"repository,omitempty"`   // OWNER/NAME
	PullRequest int             `json:"pull_request,omitempty"` // its number
	HeadSHA     string          `json:"head_sha,omitempty"`     // the commit to review; the newest by default
	DryRun      bool            `json:"dry_run,omitempty"`      // nothing is posted
	Reuse       string          `json:"reuse,omitempty"`        // ReuseNone; by default answers about parts that have not changed are used again
}

// ReuseNone is the value of reuse that has a model asked about all of a change.
const ReuseNone = "none"

// WorkspaceDiff is the value of diff that means the changes of the run's workspace.
const WorkspaceDiff = "workspace"

// Limits of codegen's inputs.
const (
	MaxInstructionBytes = 64 << 10
	MaxCodegenPaths     = 100
	MaxCodegenTokens    = 10_000_000
)

// CodegenInputs are the inputs of tool codegen.
type CodegenInputs struct {
	Instruction string   `json:"instruction"`
	Paths       []string `json:"paths,omitempty"`      // globs of the files that the model is shown, ** by default
	Model       string   `json:"model,omitempty"`      // one that the deployment offers; its first by default
	MaxTokens   *int     `json:"max_tokens,omitempty"` // of all calls of an attempt, input and output; below the deployment's own limit
}
