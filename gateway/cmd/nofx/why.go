package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"nofx.dev/gateway/api"
)

// hint says what a step waits for and how to go on.
type hint struct {
	of    string // the id of what waits
	lines []string
}

// decisionHint returns how to decide a gate, if it waits for a person, or how to go on
// without its verdict.
func decisionHint(g api.Gate, self string) []string {
	switch g.Status {
	case api.GateStatusExpired, api.GateStatusFailed, api.GateStatusError:
		return []string{"to let the run continue all the same:", fmt.Sprintf("  %s gate waive %s --reason '…'", self, g.ID)}
	}
	if g.Status != api.GateStatusPending || g.Kind != api.GateKindManual {
		return nil
	}
	line := fmt.Sprintf("%s waits for a decision: %s", clean(g.StepName), clean(deref(g.Message)))
	if g.ExpiresAt != nil {
		line += " (until " + clock(g.ExpiresAt) + ")"
	}
	if wanted := deref(g.Quorum); wanted > 1 {
		line += fmt.Sprintf(", %d of %d approvals given", len(g.Approvals), wanted)
	}
	return []string{line,
		fmt.Sprintf("  %s gate approve %s", self, g.ID),
		fmt.Sprintf("  %s gate reject %s --reason '…'", self, g.ID)}
}

// waitHint returns lines that say what a step waits for, and how to send it where that
// is a signal; none for a step that waits for a person or not at all.
func waitHint(s api.Step, self string) []string {
	switch {
	case s.Status != api.StepStatusWaiting || strings.HasPrefix(s.Tool, "manual:"):
		return nil
	case s.SignalKey != nil:
		line := fmt.Sprintf("%s waits for the signal %s", clean(s.Name), clean(*s.SignalKey))
		if s.WaitUntil != nil {
			line += " (until " + clock(s.WaitUntil) + ")"
		}
		return []string{line, fmt.Sprintf("  %s signal send %s", self, shellWord(*s.SignalKey))}
	case s.Tool == "sleep" && s.WaitUntil != nil:
		return []string{fmt.Sprintf("%s waits until %s", clean(s.Name), clock(s.WaitUntil))}
	}
	return nil
}

// shellWord returns s as one word of a command line.
func shellWord(s string) string {
	s = clean(s)
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._:@%+=,-", r))
	}) && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hints returns the hints for all that waits, in the order of the steps.
func (p *progress) hints(self string) []hint {
	decisions := map[api.StepID]hint{}
	for _, g := range p.gates {
		if g.Status != api.GateStatusPending {
			continue
		}
		if lines := decisionHint(g, self); lines != nil {
			decisions[g.StepID] = hint{g.ID, lines}
		}
	}
	var all []hint
	for _, s := range p.steps {
		if h, ok := decisions[s.ID]; ok {
			all = append(all, h)
		} else if lines := waitHint(s, self); lines != nil {
			all = append(all, hint{fmt.Sprint(s.ID, s.Attempts), lines})
		}
	}
	return all
}

// trouble returns why a step failed or will be retried, or "".
func trouble(s api.Step) string {
	line := ""
	switch s.Status {
	case api.StepStatusFailed:
		line = fmt.Sprintf("%s failed (%s)", clean(s.Name), deref(s.FailureClass))
	case api.StepStatusRetrying:
		line = clean(s.Name) + " will be retried"
		if s.ReadyAt != nil {
			line += " at " + clock(s.ReadyAt)
		}
	default:
		return ""
	}
	if s.Reason != nil {
		line += ": " + clean(*s.Reason)
	}
	return line
}

// conflicts returns lines with the first places that the dependencies of a step changed
// differently, if that is why it failed.
func conflicts(s api.Step, self string) (lines []string) {
	const most = 10
	var out struct {
		Conflicts []struct{ Path, Pointer, Kind string }
		Total     int
	}
	if deref(s.FailureClass) != api.FailureClassWorkspaceConflict || json.Unmarshal(s.Outputs, &out) != nil {
		return nil
	}
	shown := out.Conflicts[:min(len(out.Conflicts), most)]
	for _, c := range shown {
		lines = append(lines, fmt.Sprintf("  %s  %s", clean(c.Kind), clean(c.Path+c.Pointer)))
	}
	if more := out.Total - len(shown); more > 0 && len(shown) > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more: %s run show --json %s", more, self, s.RunID))
	}
	return lines
}

// troubles tell which steps failed or are tried again, why, how their logs end where
// that is known, and where to read on.
func (p *progress) troubles(self string) []string {
	gates := map[api.StepID][]api.Gate{}
	for _, g := range p.gates {
		if g.Status != api.GateStatusPending {
			gates[g.StepID] = append(gates[g.StepID], g)
		}
	}
	var lines []string
	for _, s := range p.steps {
		line := trouble(s)
		if line == "" {
			continue
		}
		lines = append(lines, line)
		lines = append(lines, conflicts(s, self)...)
		for _, said := range p.tails[s.ID] {
			lines = append(lines, "  | "+said)
		}
		if s.Attempts > 0 {
			lines = append(lines, fmt.Sprintf("  %s logs %s", self, s.ID))
		}
		if s.Status == api.StepStatusFailed {
			for _, g := range gates[s.ID] {
				lines = append(lines, fmt.Sprintf("  %s gate show %s", self, g.ID))
				if v := reviewOf(g); v != "" {
					lines = append(lines, fmt.Sprintf("  %s review findings %s", self, v))
				}
			}
		}
	}
	return lines
}

// reviewOf returns the review that decided a gate, or "".
func reviewOf(g api.Gate) string {
	var evidence struct {
		ReviewID string `json:"review_id"`
	}
	if g.Kind != api.GateKindReview || json.Unmarshal(g.Evidence, &evidence) != nil {
		return ""
	}
	return clean(evidence.ReviewID)
}

// unserved returns why steps that are ready or run may be so for long. Whoever may not ask
// for the queues is told what the steps say alone.
func (a *app) unserved(ctx context.Context, c *api.Client, steps []api.Step) []string {
	if !slices.ContainsFunc(steps, underWay) {
		return nil
	}
	page, _, err := call[api.QueuePage](c.ListQueues(ctx))
	if err != nil {
		page.Items = nil
	}
	return standstill(steps, page.Items, a.self())
}

// standstillOf returns what unserved returns, for a run that is looked at again and again:
// it is read only
// when something is wrong with a queue.
func (a *app) standstillOf(ctx context.Context, c *api.Client, runID string) ([]string, error) {
	page, _, err := call[api.QueuePage](c.ListQueues(ctx))
	if err != nil || !slices.ContainsFunc(page.Items, func(q api.Queue) bool {
		return q.Paused || q.PausedForAll || q.Workers == 0 || q.WorkersWaiting > 0
	}) {
		return nil, err
	}
	d, _, err := call[api.RunDetail](c.GetRun(ctx, runID))
	return standstill(d.Steps, page.Items, a.self()), err
}

// again returns lines that name the commands which retry a failed or cancelled run, or
// nil for any other run.
func (p *progress) again(self string) []string {
	if p.run.Status != api.RunStatusFailed && p.run.Status != api.RunStatusCancelled {
		return nil
	}
	lines := []string{"to retry the run, keeping steps that succeeded:", fmt.Sprintf("  %s run retry %s", self, p.run.ID)}
	var failed []api.Step
	for _, s := range p.steps {
		if s.Status == api.StepStatusFailed {
			failed = append(failed, s)
		}
	}
	if len(failed) > 1 {
		lines = append(lines, "or to retry one failed step, and the steps skipped because of it:", fmt.Sprintf("  %s run retry %s/%s", self, p.run.ID, clean(failed[0].Name)))
	}
	return lines
}

// underWay reports whether it is for workers to go on with a step.
func underWay(s api.Step) bool {
	return s.Status == api.StepStatusReady || s.Status == api.StepStatusRunning
}

// standstill returns what keeps workers from steps that are ready, in the order of the
// queues, after what is wrong with those that run the others.
func standstill(steps []api.Step, queues []api.Queue, self string) (lines []string) {
	const most = 3 // of steps that run: what is wrong with many is the same
	of := map[string]api.Queue{}
	for _, q := range queues {
		of[q.Name] = q
	}
	ready, missing := map[string]bool{}, map[string]string{}
	for _, s := range steps {
		missing[s.Queue] = cmp.Or(missing[s.Queue], deref(s.WaitsForWorker))
		ready[s.Queue] = ready[s.Queue] || s.Status == api.StepStatusReady
		q, known := of[s.Queue]
		switch {
		case s.WorkerSilentSince != nil:
			line := fmt.Sprintf("%s: its worker has been silent since %s; ", clean(s.Name), clock(s.WorkerSilentSince))
			if known && q.Workers == 0 {
				line += "no worker serves queue " + q.Name
			} else {
				line += "another worker, if there is one, takes over the step"
			}
			lines = append(lines, line)
		case s.WorkerWaitsFor != nil:
			lines = append(lines, fmt.Sprintf("%s: its worker waits for %s", clean(s.Name), clean(*s.WorkerWaitsFor)))
		}
	}
	if more := len(lines) - most; more > 0 {
		lines = append(lines[:most], fmt.Sprintf("the same for %d more", more))
	}
	for _, q := range queues {
		if !ready[q.Name] || q.Depth.Ready == 0 {
			continue
		}
		wait := fmt.Sprintf("%d of your steps wait in it", q.Depth.Ready)
		if q.Depth.Ready == 1 {
			wait = "1 of your steps waits in it"
		}
		if q.Paused {
			line := fmt.Sprintf("queue %s has been paused since %s", q.Name, clock(q.PausedAt))
			if by := cmp.Or(deref(q.PausedByName), deref(q.PausedBy)); by != "" {
				line += " by " + clean(by)
			}
			if q.Reason != nil {
				line += " (" + clean(*q.Reason) + ")"
			}
			lines = append(lines, fmt.Sprintf("%s: %s; to continue: %s queue resume %s", line, wait, self, q.Name))
		}
		if q.PausedForAll {
			lines = append(lines, fmt.Sprintf("queue %s is paused for all tenants, by the operator of the installation: %s", q.Name, wait))
		}
		switch {
		case q.Paused || q.PausedForAll:
		case q.Workers == 0:
			line := "no worker serves queue " + q.Name
			if needs := missing[q.Name]; strings.Contains(needs, "sandbox") {
				line += ", which needs " + clean(needs)
			}
			lines = append(lines, line+": "+wait)
		case q.WorkersWaiting == q.Workers:
			lines = append(lines, fmt.Sprintf("every worker of queue %s waits for something, such as storage (%s worker list): %s", q.Name, self, wait))
		}
	}
	return lines
}

// How much of the logs of failed steps the end of a watch shows.
const (
	tailSteps = 3 // the first that failed
	tailLines = 10
	tailBytes = 8 << 10
)

// tails returns the last lines of the logs of steps that failed. A log that cannot be read
// is left out: it is more than was asked for.
func tails(ctx context.Context, c *api.Client, steps []api.Step) map[api.StepID][]string {
	tails := map[api.StepID][]string{}
	for _, s := range steps {
		if s.Status != api.StepStatusFailed || s.Attempts == 0 || len(tails) == tailSteps {
			continue
		}
		tail := fmt.Sprintf("bytes=-%d", tailBytes)
		resp, err := c.GetStepLogs(ctx, s.ID, &api.GetStepLogsParams{Range: &tail})
		if err != nil {
			continue
		}
		raw, err := io.ReadAll(io.LimitReader(resp.Body, tailBytes))
		resp.Body.Close()
		if err == nil && resp.StatusCode < http.StatusMultipleChoices {
			tails[s.ID] = lastLines(string(raw), tailLines)
		}
	}
	return tails
}

// lastLines returns the last n lines of a text, which cannot steer a terminal and are not
// too long for one.
func lastLines(text string, n int) []string {
	text = strings.TrimRight(text, " \t\r\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(visible(text), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		lines[i] = shorten(strings.ReplaceAll(line, "\t", "    "), 300)
	}
	return lines
}
