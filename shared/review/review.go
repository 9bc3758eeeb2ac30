package review

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/machine"
)

// The states of a review.
const (
	Queued       State = "queued"
	Running      State = "running"
	Completed    State = "completed" // it has a verdict
	ReviewFailed State = "failed"    // its step ended without one
	Superseded   State = "superseded"
)

// Machine is the state machine of a review.
var Machine = machine.New("review",
	[]State{Queued, Running, Completed, ReviewFailed, Superseded},
	[]State{Completed, ReviewFailed, Superseded},
	machine.Edges{From: []State{Queued}, Event: "start", To: Running},
	machine.Edges{From: []State{Queued, Running}, Event: "supersede", To: Superseded, NeedsReason: true},
	machine.Edges{From: []State{Queued, Running}, Event: "fail", To: ReviewFailed, NeedsReason: true},
	machine.Edges{From: []State{Running}, Event: "complete", To: Completed, NeedsLease: true},
	machine.Edges{From: []State{Running}, Event: "lease_expired", To: Queued, NeedsReason: true},
)

// FindingMachine is the state machine of a finding. All its states can be left again.
var FindingMachine = machine.New("finding",
	[]State{Open, Fixed, Resolved, Dismissed},
	nil,
	machine.Edges{From: []State{Open}, Event: "fix", To: Fixed},
	machine.Edges{From: []State{Open}, Event: "resolve", To: Resolved},
	machine.Edges{From: []State{Open}, Event: "dismiss", To: Dismissed, NeedsReason: true},
	machine.Edges{From: []State{Fixed}, Event: "recur", To: Open},
	machine.Edges{From: []State{Fixed, Resolved, Dismissed}, Event: "reopen", To: Open, NeedsReason: true},
	machine.Edges{From: []State{Dismissed}, Event: "dismissal_expired", To: Open},
)

// Waived is the verdict of a review whose gate a person has waived.
const Waived Verdict = "waived"

// Provider says where a change is from.
type Provider string

// The providers.
const (
	GitHub    Provider = "github"
	Bitbucket Provider = "bitbucket"
	Workspace Provider = "workspace" // of a run
	Diff      Provider = "diff"      // posted
)

// Review is one pass over one head of a change.
type Review struct {
	ID           uuid.UUID
	RunID        uuid.UUID
	StepID       uuid.UUID
	Provider     Provider
	Repository   string // as the forge names it; "": none
	PullRequest  int    // 0: none
	Change       string // what is reviewed again and again: reviews of one change share their findings
	HeadSHA      string // "": not known yet; of a posted diff the SHA-256 of its bytes
	BaseSHA      string
	DryRun       bool
	State        State
	Version      int64
	Reason       string
	Verdict      Verdict         // "" until it is completed; Waived once a person has waived its gate
	Result       json.RawMessage // a Result, nil until it is completed
	PolicyHash   string
	Model        string
	Tokens       int64
	CostUSD      float64
	RerunOf      *uuid.UUID
	SupersededBy *uuid.UUID
	GateID       *uuid.UUID // that it decided, once its step has
	TraceID      string     // of its run
	CreatedBy    string
	CreatedAt    time.Time
	StartedAt    *time.Time
	FinishedAt   *time.Time
}

// Record is a finding as it is stored, with what was decided about it.
type Record struct {
	Finding
	UUID          uuid.UUID
	Provider      Provider
	Repository    string
	PullRequest   int
	Version       int64
	Reason        string // of the newest decision
	Gone          *Gone  // of a fixed one: the evidence
	DecidedBy     string
	DecidedAt     *time.Time
	FirstReviewID uuid.UUID
	LastReviewID  uuid.UUID // the newest that reported it
	CreatedAt     time.Time
	UpdatedAt     time.Time
	Disposition   Disposition // in lists of a review: what became of it there
	Why           string
}
