package run

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The limits of system runs: attempts of their step, time of one attempt, and time of the
// run with all waiting.
const (
	systemAttempts = 3
	systemTimeout  = time.Hour
	systemDeadline = 24 * time.Hour
)

// WholeTenant is the key of work on all that a tenant has stored, as collections do it.
const WholeTenant = "all"

// SystemPlan returns the plan of a system run: one step of a tool of the system, with
// every default. The inputs are encoded as JSON.
func SystemPlan(tool, goal string, inputs any) (Plan, error) {
	raw, err := json.Marshal(inputs)
	if err != nil {
		return Plan{}, fmt.Errorf("inputs of %s as JSON: %w", tool, err)
	}
	attempts, timeout, deadline, initial := systemAttempts, int(systemTimeout.Seconds()), int(systemDeadline.Seconds()), 1.0
	_, name, _ := strings.Cut(tool, ":")
	return Plan{
		Goal: goal, DeadlineS: &deadline,
		Steps: []PlanStep{{
			Name: name, Tool: tool, Inputs: raw, DependsOn: []string{}, TimeoutS: &timeout,
			Retry: &PlanRetry{MaxAttempts: &attempts, InitialS: &initial},
		}},
	}, nil
}
