package run

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Run is one execution of a plan, owned by a tenant, with one trace id.
type Run struct {
	ID                 uuid.UUID
	TenantID           uuid.UUID
	Project            string // slug
	Kind               Kind
	SubjectRunID       *uuid.UUID // that a system run works on, if one
	Name               string
	Goal               string
	State              State
	Version            int64
	EventSeq           int64  // seq of the newest event
	PrunedSeq          *int64 // its logs and the events up to this one were deleted when its retention passed; nil: none
	Labels             map[string]string
	Plan               json.RawMessage // normalised
	PlanDigest         string          // sha256:<hex> of the plan in RFC 8785 form
	TraceID            string          // 32 hex digits
	Traceparent        string          // the creating request's span, W3C form
	CorrelationID      string
	HeadCheckpointID   *uuid.UUID
	ParentRunID        *uuid.UUID // of a branch: the run that it began from
	ParentCheckpointID *uuid.UUID // and the checkpoint
	RootRunID          uuid.UUID  // the first run of the line; of one that is no branch its own id
	FailureClass       FailureClass
	FailureSignature   string // groups failures that look alike
	Reason             string
	CreatedBy          string
	CreatedByName      string // of an API key
	CreatedAt          time.Time
	StartedAt          *time.Time
	FinishedAt         *time.Time
	Deadline           *time.Time // nil while the run is paused; the remaining time counts from its resumption
}

// Kind is the kind of work that a run does.
type Kind string

// The kinds of run.
const (
	PlanRun   Kind = "plan"   // a client's plan
	SystemRun Kind = "system" // work of this system for a caller: one step of a tool sys:*
)

// Step is one unit of work of a run.
type Step struct {
	ID             uuid.UUID
	RunID          uuid.UUID
	Index          int // its place in the plan, from 0
	Name           string
	Tool           string
	Queue          string
	State          State
	Version        int64
	Fence          int64
	Attempt        int // those that count, since somebody retried it
	MaxAttempts    int
	Attempts       int      // all of them
	DependsOn      []string // names
	FailureClass   FailureClass
	Reason         string
	Outputs        json.RawMessage // an object, or nil
	OutputsOmitted bool            // there are outputs, but only a read of this single step returns them
	RestoredFrom   *uuid.UUID      // of a branch: the step of an earlier run whose result this is
	ReadyAt        *time.Time
	WaitUntil      *time.Time
	SignalKey      string // while it waits for a signal
	StartedAt      *time.Time
	FinishedAt     *time.Time

	// While the step runs, about its worker: the time since when it has been silent, nil
	// unless that is too long, and the thing that it waits for, such as "storage".
	WorkerSilentSince *time.Time
	WorkerWaitsFor    string
	// While the step is ready and no worker takes from its queue: the worker that it waits
	// for, such as "a worker that serves queue step".
	WaitsForWorker string
}

// Attempt is one try at a step by one worker, under one fence.
type Attempt struct {
	Fence     int64
	Owner     string // worker id
	OwnerPID  int
	StartedAt time.Time
	EndedAt   *time.Time
	Accepted  bool
	Outcome   string // succeed, fail, retry, wait, interrupted, lease_expired, poison, cancel; empty while it runs
	ExitCode  *int
	Usage     Usage
	TraceID   string
	SpanID    string
}

// Usage is what an attempt consumed.
type Usage struct {
	CPUMillis    int64 `json:"cpu_ms,omitempty"`
	MaxRSSBytes  int64 `json:"max_rss_bytes,omitempty"`
	RunMillis    int64 `json:"run_ms,omitempty"`
	BytesWritten int64 `json:"bytes_new,omitempty"`     // new checkpoint bytes
	ReadBytes    int64 `json:"read_bytes,omitempty"`    // from disks
	WrittenBytes int64 `json:"written_bytes,omitempty"` // to disks

	// Of models: tokens, where tokens read from a cache count as input, and their cost if
	// the deployment knows the prices.
	InputTokens  int64   `json:"input_tokens,omitempty"`
	OutputTokens int64   `json:"output_tokens,omitempty"`
	CachedTokens int64   `json:"cached_tokens,omitempty"`
	CostUSD      float64 `json:"cost_usd,omitempty"`
}

// AddProgram adds what another program of the same attempt consumed.
func (u *Usage) AddProgram(p Usage) {
	u.CPUMillis += p.CPUMillis
	u.MaxRSSBytes = max(u.MaxRSSBytes, p.MaxRSSBytes)
	u.ReadBytes += p.ReadBytes
	u.WrittenBytes += p.WrittenBytes
}

// Event is one thing that happened to a run. Seq is dense per run from 1.
type Event struct {
	RunID     uuid.UUID
	TenantID  uuid.UUID
	Seq       int64
	StepID    *uuid.UUID
	StepName  string
	Type      string // <noun>.<to state>, or a verb such as checkpoint.created
	Event     string // the transition; empty for other types
	FromState State
	ToState   State
	Reason    string
	Actor     string
	ActorName string          // of an API key
	Data      json.RawMessage // an object
	TraceID   string
	SpanID    string
	Fence     *int64
	At        time.Time
	XID       int64  // its transaction: with RunID and Seq its place in the tenant's feed
	Project   string // slug of its run's, where it was read from the feed
}

// Gate is a step's decision: its verdict is its state.
type Gate struct {
	ID                uuid.UUID
	RunID             uuid.UUID
	StepID            uuid.UUID
	StepName          string
	Round             int
	Name              string // of its tool, behind the family
	Kind              GateKind
	State             State
	Version           int64
	Message           string
	InputDigest       string
	ShownCheckpointID *uuid.UUID
	ShownDigest       string
	Evidence          json.RawMessage // an object, or nil
	EvidenceOmitted   bool            // there is evidence, but only a read of this single gate returns it
	ExpiresAt         *time.Time
	DecidedBy         string
	DecidedByName     string // of an API key
	DecidedAt         *time.Time
	Reason            string
	CreatedAt         time.Time
	Quorum            int        // approvals that a manual gate wants
	Approvals         []Approval // decisions on it, oldest first
}

// Approval is one person's decision on a gate.
type Approval struct {
	By       string    `json:"by"`
	ByName   string    `json:"by_name"`  // of an API key
	Decision string    `json:"decision"` // approve, reject or waive
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"`
}

// GateKind says who decides a gate: an exit code, a review or people.
type GateKind string

// The kinds of gate so far.
const (
	CommandGate GateKind = "command" // an exit code
	ReviewGate  GateKind = "review"  // a policy, over what a review found
	ManualGate  GateKind = "manual"  // a person
)

// Checkpoint is an immutable snapshot of a run: its state and its workspace.
type Checkpoint struct {
	ID          uuid.UUID
	RunID       uuid.UUID
	Seq         int64
	Kind        CheckpointKind
	StepID      *uuid.UUID
	Fence       *int64
	Generation  int
	Digest      string          // sha256:<hex> of Manifest
	Manifest    json.RawMessage // RFC 8785; filled by the single read only
	StateDigest string
	TreeDigest  string
	Parents     []uuid.UUID
	BytesNew    int64
	Label       string
	Hold        bool
	CreatedAt   time.Time
}

// CheckpointKind is the moment at which a checkpoint was written (CHECKPOINTS.md, When).
type CheckpointKind string

// The kinds written so far.
const (
	PreCheckpoint        CheckpointKind = "pre"
	PostCheckpoint       CheckpointKind = "post"
	GateFailedCheckpoint CheckpointKind = "gate_failed"
	WaitCheckpoint       CheckpointKind = "wait"
	InterruptCheckpoint  CheckpointKind = "interrupt"
	MergeCheckpoint      CheckpointKind = "merge"
	ManualCheckpoint     CheckpointKind = "manual"
	EditCheckpoint       CheckpointKind = "edit"
)

// Artifact is bytes that a step produced or a client uploaded, addressed by object
// key and SHA-256. They can be read once it is ready.
type Artifact struct {
	ID        uuid.UUID
	RunID     *uuid.UUID
	StepID    *uuid.UUID
	Name      string
	Key       string // object key; never shown to clients
	MediaType string
	Size      int64
	SHA256    []byte
	State     State // Pending or Ready
	CreatedAt time.Time
}

// MaxArtifactBytes is the largest artifact that can be uploaded: the largest file
// of a workspace.
const MaxArtifactBytes = 1 << 30
