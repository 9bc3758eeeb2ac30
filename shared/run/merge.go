package run

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Merge brings what one run changed since a common checkpoint into another run.
type Merge struct {
	ID          uuid.UUID
	TargetRunID uuid.UUID
	SourceRunID uuid.UUID
	TargetHead  uuid.UUID // the checkpoints that are merged
	SourceHead  uuid.UUID
	BaseID      uuid.UUID
	AskedBaseID *uuid.UUID // the base that the caller named
	State       State
	Version     int64
	Strategy    MergeStrategy
	Mode        MergeMode
	WorkRunID   *uuid.UUID   // the system run that computes it, or did last
	Outcome     MergeOutcome // "" until it is computed
	Conflicts   int
	Unresolved  int          // those of them without a resolution
	Preview     MergePreview // zero until it is computed
	ResultTree  string       // the digests of the result, once it is stored
	ResultState string
	CommittedID *uuid.UUID // the checkpoint that the commit made, or the target's head where there was nothing to merge
	FailureCode string     // why it cannot be computed
	Reason      string
	CreatedBy   string
	CreatedAt   time.Time
	UpdatedAt   time.Time
	TargetMoved bool // the target has another head by now
}

// Prepared reports whether the result is stored, so that the merge can be committed at
// once.
func (m Merge) Prepared() bool { return m.ResultTree != "" }

// MergeStrategy says how conflicts are resolved before anybody has looked.
type MergeStrategy string

// The strategies.
const (
	ManualStrategy MergeStrategy = "manual" // not at all
	OursStrategy   MergeStrategy = "ours"
	TheirsStrategy MergeStrategy = "theirs"
)

// MergeMode says what is a conflict.
type MergeMode string

// The modes.
const (
	NormalMode MergeMode = "normal"
	StrictMode MergeMode = "strict" // every path and pointer that both sides changed
)

// MergeOutcome is what the computation of a merge found.
type MergeOutcome string

// The outcomes.
const (
	UpToDate    MergeOutcome = "up_to_date"   // the target has all of the source
	FastForward MergeOutcome = "fast_forward" // the source has all of the target
	Clean       MergeOutcome = "clean"        // nothing conflicts
	InConflict  MergeOutcome = "conflicted"
)

// MergePreview is what the merge would change in the target, with ours in the place of
// conflicts that are not resolved.
type MergePreview struct {
	Added     int           `json:"added"`
	Modified  int           `json:"modified"`
	Deleted   int           `json:"deleted"`
	Files     []MergeChange `json:"files"` // the first MaxMergeFiles of them, by path
	Truncated bool          `json:"truncated"`
	State     bool          `json:"state"` // the state document changes
}

// MaxMergeFiles is how many files a preview lists.
const MaxMergeFiles = 1000

// MergeChange is a file that a merge changes.
type MergeChange struct {
	Path   string `json:"path"`
	Status string `json:"status"` // added, modified or deleted
}

// MergeConflict is one place on which the runs of a merge disagree.
type MergeConflict struct {
	N          int        `json:"-"`
	Unit       MergeUnit  `json:"unit"`
	At         string     `json:"at"`
	Kind       string     `json:"kind"`
	Line       *int       `json:"line,omitempty"`
	RenamedTo  *string    `json:"renamed_to,omitempty"`
	Takes      []Take     `json:"takes"`
	Base       *MergeSide `json:"base,omitempty"` // nil: nothing is there
	Ours       *MergeSide `json:"ours,omitempty"`
	Theirs     *MergeSide `json:"theirs,omitempty"`
	Resolution *Take      `json:"resolution,omitempty"`
	Value      *string    `json:"-"` // of a resolution by value: JSON for a pointer, the content for a path
	ArtifactID *uuid.UUID `json:"-"`
	ResolvedBy *string    `json:"-"`
	Reason     *string    `json:"-"` // why the resolution that there was does not stand any more
}

// MergeUnit says what the place of a conflict is.
type MergeUnit string

// The units of conflicts.
const (
	PathUnit    MergeUnit = "path"    // of the workspace
	PointerUnit MergeUnit = "pointer" // into the state document
)

// MergeSide is what one side has at a conflict: a file, or a value of the state.
type MergeSide struct {
	SHA256  string          `json:"sha256,omitempty"`
	Size    *int64          `json:"size_bytes,omitempty"`
	Mode    string          `json:"mode,omitempty"`
	Kind    string          `json:"kind,omitempty"`    // SideRedacted, or ""
	Excerpt string          `json:"excerpt,omitempty"` // of a text file: the lines in question, up to a kibibyte
	Value   json.RawMessage `json:"value,omitempty"`   // unless it is larger than MaxMergeValue
}

// SideRedacted is the kind of a side whose content was purged.
const SideRedacted = "redacted"

// MaxMergeValue is how large a value of the state is in bytes that a conflict shows.
const MaxMergeValue = 4 << 10

// Take is the resolution of a conflict.
type Take string

// The resolutions.
const (
	TakeOurs     Take = "ours"
	TakeTheirs   Take = "theirs"
	TakeBase     Take = "base"
	TakeBoth     Take = "both" // of texts: the lines of ours, then those of theirs
	TakeValue    Take = "value"
	TakeArtifact Take = "artifact"
)

// MergeResolution is a decision about the conflict at a place.
type MergeResolution struct {
	Unit       MergeUnit
	At         string
	Take       *Take // nil: as if nothing had been decided
	Value      *string
	ArtifactID *uuid.UUID
}

// FreshGate stands in the name of a gate step between the name of the plan's step whose
// verdict a merge made void and a number. No step of a plan has it in its name.
const FreshGate = "~"

// MergeInputs are the inputs of the tool that computes a merge.
type MergeInputs struct {
	MergeID string `json:"merge_id"`
	Version int64  `json:"version"` // of the merge when it was asked for
}
