package run

import (
	"encoding/json"
	"fmt"
	"time"

	"nofx.dev/shared/fault"
)

// BisectInputs are the inputs of the tool that looks for the checkpoint at which a command
// began to fail. Ids are in their public form.
type BisectInputs struct {
	RunID      string            `json:"run_id"`
	Good       string            `json:"good"` // the checkpoint at which the command passes
	Bad        string            `json:"bad"`  // a later one at which it fails
	Command    string            `json:"command"`
	Env        map[string]string `json:"env,omitempty"`
	TimeoutS   int               `json:"timeout_s"`  // of one probe
	Candidates int               `json:"candidates"` // Good, Bad and the checkpoints between that changed the workspace
}

// Limits of a bisection: the time of one probe, and the number of candidates.
const (
	DefaultProbeTimeout = 10 * time.Minute
	MaxProbeTimeout     = 2 * time.Hour
	MaxCandidates       = 10_000
)

// Probe is the result of a bisection's command at one checkpoint, the data of an event
// bisect.probed.
type Probe struct {
	CheckpointID string `json:"checkpoint_id"`
	Outcome      string `json:"outcome"` // ProbeGood, ProbeBad or ProbeSkipped
	ExitCode     int    `json:"exit_code"`
	DurationMS   int64  `json:"duration_ms"`
	Left         int    `json:"left"` // candidates that may still be the first bad one, after it
}

// The outcomes of a probe. As with git bisect, exit code 0 is good, 125 is skipped and any
// other up to 127 is bad.
const (
	ProbeGood    = "good"
	ProbeBad     = "bad"
	ProbeSkipped = "skipped"
)

// SkipCode is the exit code with which a command says that it cannot judge a checkpoint.
const SkipCode = 125

// BisectOutputs are the outputs of a bisection that has found its answer. Where skipped
// checkpoints lie between LastGood and FirstBad, any of the Suspects may be the first bad
// one, the oldest first.
type BisectOutputs struct {
	LastGood string   `json:"last_good"`
	FirstBad string   `json:"first_bad"`
	Suspects []string `json:"suspects,omitempty"`
}

func (c *checker) bisect(in BisectInputs) {
	c.script("/command", in.Command)
	c.env(in.Env)
	if limit := int(MaxProbeTimeout.Seconds()); in.TimeoutS < 1 || in.TimeoutS > limit {
		c.add("/timeout_s", fmt.Sprintf("must be between 1 and %d", limit))
	}
}

// Check returns all that is wrong with the command of a bisection.
func (in BisectInputs) Check() ([]fault.Field, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	t, _ := ToolOf(ToolBisect)
	return t.inputs(&checker{}, raw), nil
}
