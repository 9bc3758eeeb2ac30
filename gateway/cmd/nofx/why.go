package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
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

// decisionHint tells how to decide a gate, if it waits for a person, or how to go on
// without its verdict.
func decisionHint(g api.Gate, self string) []string {
	switch g.Status {
	case api.GateStatusExpired, api.GateStatusFailed, api.GateStatusError:
		return []string{"to let the run go on all the same:", fmt.Sprintf("  %s gate waive %s --reason '…'", self, g.ID)}
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

// shellWord is s as one word of a command line.
func shellWord(s string) string {
	s = clean(s)
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._:@%+=,-", r))
	}) && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hints are those of all that waits, in the order of the steps.
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
			all = append(all, hint{fmt.Sprint(s.ID, s.Attempt), lines})
		}
	}
	return all
}

// trouble tells why a step failed or is tried again, or is empty.
func trouble(s api.Step) string {
	line := ""
	switch s.Status {
	case api.StepStatusFailed:
		line = fmt.Sprintf("%s failed (%s)", clean(s.Name), deref(s.FailureClass))
	case api.StepStatusRetrying:
		line = clean(s.Name) + " is tried again"
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
		for _, said := range p.tails[s.ID] {
			lines = append(lines, "  | "+said)
		}
		if s.Attempt > 0 {
			lines = append(lines, fmt.Sprintf("  %s logs %s", self, s.ID))
		}
		if s.Status == api.StepStatusFailed {
			for _, g := range gates[s.ID] {
				lines = append(lines, fmt.Sprintf("  %s gate show %s", self, g.ID))
			}
		}
	}
	return lines
}

// unserved says why steps that are ready may be so for long: nobody takes any. Whoever
// may not ask is told nothing.
func (a *app) unserved(ctx context.Context, c *api.Client, steps []api.Step) (lines []string) {
	ready := map[string]bool{}
	for _, s := range steps {
		ready[s.Queue] = ready[s.Queue] || s.Status == api.StepStatusReady
	}
	if !slices.Contains(slices.Collect(maps.Values(ready)), true) {
		return nil
	}
	page, _, err := call[api.QueuePage](c.ListQueues(ctx))
	if err != nil {
		return nil
	}
	for _, q := range page.Items {
		if !ready[q.Name] || q.Depth.Ready == 0 {
			continue
		}
		wait := fmt.Sprintf("%d of your steps wait in it", q.Depth.Ready)
		if q.Depth.Ready == 1 {
			wait = "1 of your steps waits in it"
		}
		if q.Paused {
			line := fmt.Sprintf("queue %s is paused since %s", q.Name, clock(q.PausedAt))
			if by := cmp.Or(deref(q.PausedByName), deref(q.PausedBy)); by != "" {
				line += " by " + clean(by)
			}
			if q.Reason != nil {
				line += " (" + clean(*q.Reason) + ")"
			}
			lines = append(lines, fmt.Sprintf("%s: %s; to go on: %s queue resume %s", line, wait, a.self(), q.Name))
		}
		if q.PausedForAll {
			lines = append(lines, fmt.Sprintf("queue %s is paused for all tenants, by whoever runs the installation: %s", q.Name, wait))
		}
		if q.Workers == 0 && !q.Paused && !q.PausedForAll {
			lines = append(lines, fmt.Sprintf("no worker serves queue %s: %s", q.Name, wait))
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

// tails are the last lines of the logs of steps that failed. A log that cannot be read
// is left out: it is more than was asked for.
func tails(ctx context.Context, c *api.Client, steps []api.Step) map[api.StepID][]string {
	tails := map[api.StepID][]string{}
	for _, s := range steps {
		if s.Status != api.StepStatusFailed || s.Attempt == 0 || len(tails) == tailSteps {
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

// lastLines are the last n lines of a text, which cannot steer a terminal and are not
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
