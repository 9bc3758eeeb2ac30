package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) gateCommand() *cobra.Command {
	return group("gate", "List, show and decide gates",
		a.gateListCommand(), a.gateShowCommand(),
		a.decideCommand("approve", "Let a manual gate pass", fourEyes, func(ctx context.Context, c *api.Client, gate, reason string) (*http.Response, error) {
			return c.ApproveGate(ctx, gate, nil, api.Reason{Reason: optional(reason)})
		}),
		a.decideCommand("reject", "Let a manual gate fail", "", func(ctx context.Context, c *api.Client, gate, reason string) (*http.Response, error) {
			return c.RejectGate(ctx, gate, nil, api.RequiredReason{Reason: reason})
		}),
		a.decideCommand("waive", "Let the run continue without a gate's verdict, or despite it", fourEyes, func(ctx context.Context, c *api.Client, gate, reason string) (*http.Response, error) {
			return c.WaiveGate(ctx, gate, nil, api.RequiredReason{Reason: reason})
		}))
}

func (a *app) gateListCommand() *cobra.Command {
	var status, kind, name, project, cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the gates that wait for a decision, oldest first",
		Long: `List the gates that wait for a decision, oldest first. A terminal without room for the ids of
both gate and run shows that of the run: RUN/STEP names the newest gate of a step as well.`,
		Example: `  nofx gate list
  nofx gate list --status failed --kind command --project web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			params := api.ListGatesParams{Kind: optional(api.GateKind(kind)), Name: optional(name), Project: optional(project), Cursor: optional(cursor), Limit: optional(limit)}
			if status != "all" {
				params.Status = optional(api.GateStatus(status))
			}
			page, raw, err := call[api.GatePage](client.ListGates(cmd.Context(), &params))
			for err == nil && len(page.Items) == 0 && page.NextCursor != nil { // the gateway has not finished the search
				params.Cursor = page.NextCursor
				page, raw, err = call[api.GatePage](client.ListGates(cmd.Context(), &params))
			}
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				head := []string{"GATE", "RUN", "STEP", "NAME", "KIND", "STATUS", "AGE", "EXPIRES", "MESSAGE"}
				rows := make([][]string, len(page.Items))
				for i, g := range page.Items {
					expires := ""
					if g.ExpiresAt != nil && g.Status == api.GateStatusPending {
						expires = "in " + span(g.ExpiresAt.Sub(a.now()))
					}
					rows[i] = []string{g.ID, g.RunID, g.StepName, g.Name, string(g.Kind), string(g.Status), span(time.Duration(g.AgeS) * time.Second), expires, deref(g.Message)}
				}
				a.table(w, head, rows, "EXPIRES", "KIND", "NAME", "GATE")
				nextPage(w, page.NextCursor)
			})
		},
	}
	c.Flags().StringVar(&status, "status", "pending", `only gates in this status, or "all"`)
	c.Flags().StringVar(&kind, "kind", "", "only gates of this kind: command, review or manual")
	c.Flags().StringVar(&name, "name", "", "only gates with this name, or of a step with this name")
	c.Flags().StringVar(&project, "project", "", "only gates of this project")
	oneOf(c, "status", "all", api.GateStatusPending, api.GateStatusPassed, api.GateStatusFailed, api.GateStatusWaived,
		api.GateStatusExpired, api.GateStatusError)
	oneOf(c, "kind", api.GateKindCommand, api.GateKindReview, api.GateKindManual)
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) gateShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show GATE",
		Short:             "Show a gate and the evidence for its verdict",
		Long:              "Show a gate and the evidence for its verdict.\n\n" + gateNames,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGate(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			gate, err := gateID(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			answer, raw, err := call[api.GateAnswer](client.GetGate(cmd.Context(), gate))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				g := answer.Gate
				decidedBy, decided := "", "decided"
				switch {
				case g.Status == api.GateStatusExpired: // whoever noticed is not who decided
					decided = "expired"
				case g.DecidedBy != nil:
					decidedBy = who(*g.DecidedBy, g.DecidedByName)
				}
				facts(w, "gate", g.ID, "name", g.Name, "kind", string(g.Kind), "status", string(g.Status), "message", deref(g.Message),
					"run", g.RunID, "step", g.StepName, "step id", g.StepID, "round", fmt.Sprint(g.Round), "opened", clock(&g.CreatedAt), "open until", clock(g.ExpiresAt),
					"shown", deref(g.ShownCheckpointID), "decided by", decidedBy, decided, clock(g.DecidedAt), "reason", deref(g.Reason),
					"approvals", approvals(g),
					"evidence", string(g.Evidence))
				for _, line := range decisionHint(g, a.self()) {
					fmt.Fprintln(w, line)
				}
			})
		},
	}
}

// fourEyes is the rule of tenants that want it.
const fourEyes = "If the tenant's setting four_eyes is on, the author of the run may not do this.\n"

const gateNames = `GATE is the id of a gate, or RUN/NAME for the newest gate of a step. NAME is the name of
the step or of the gate: a step "ship" with the tool manual:deploy has both ship and deploy.`

// gateID returns the id of a gate given by its id or as RUN/NAME. If NAME is the name of a
// step and of another step's gate, the step has precedence.
func gateID(ctx context.Context, c *api.Client, name string) (api.GateID, error) {
	run, name, byName := strings.Cut(name, "/")
	if !byName {
		switch {
		case strings.HasPrefix(run, "run_"):
			return "", usagef("%s is a run; name the step of its gate as well, %s/NAME", run, run)
		case !strings.HasPrefix(run, "gate_"):
			return "", usagef("%q is not the id of a gate; name its run as well, RUN/%s (gate list shows waiting gates)", run, run)
		}
		return run, nil
	}
	d, _, err := call[api.RunDetail](c.GetRun(ctx, run))
	if err != nil {
		return "", err
	}
	for _, nameOf := range []func(api.Gate) string{func(g api.Gate) string { return g.StepName }, func(g api.Gate) string { return g.Name }} {
		var found []api.Gate // of one step, by the round
		for _, g := range d.Gates {
			if nameOf(g) != name {
				continue
			}
			if len(found) > 0 && found[0].StepID != g.StepID {
				return "", usagef("several steps of run %s have a gate %q: name the step, %s or %s", run, name, found[0].StepName, g.StepName)
			}
			found = append(found, g)
		}
		if len(found) > 0 {
			return slices.MaxFunc(found, func(a, b api.Gate) int { return cmp.Compare(a.Round, b.Round) }).ID, nil
		}
	}
	var there []string
	for _, g := range d.Gates {
		if !slices.Contains(there, g.StepName) {
			there = append(there, g.StepName)
		}
	}
	var steps []string
	for _, s := range d.Steps {
		steps = append(steps, s.Name)
		if s.Name == name {
			return "", fmt.Errorf("%w: step %q of run %s is %s and has no gate yet%s", errNotFound, name, run, s.Status, having(there))
		}
	}
	return "", fmt.Errorf("%w: run %s has no step and no gate %q%s", errNotFound, run, name, didYouMean(name, steps)+having(there))
}

// having returns which steps have a gate.
func having(gates []string) string {
	if len(gates) == 0 {
		return "; none of its steps has a gate"
	}
	return "; steps with a gate: " + shorten(strings.Join(gates, ", "), 500)
}

// approvals returns the decisions on a manual gate and their authors.
func approvals(g api.Gate) string {
	given := make([]string, len(g.Approvals))
	for i, a := range g.Approvals {
		given[i] = fmt.Sprintf("%s by %s at %s", a.Decision, who(a.By, a.ByName), clock(&a.At))
	}
	return strings.Join(given, ", ")
}

// decideCommand returns the command of one of the three decisions. All except approve need
// a reason.
func (a *app) decideCommand(verb, short, rule string, decide func(ctx context.Context, c *api.Client, gate, reason string) (*http.Response, error)) *cobra.Command {
	var reason string
	example := "  nofx gate " + verb + " gate_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --reason 'see the incident'"
	c := &cobra.Command{
		Use:               verb + " GATE",
		Short:             short,
		Long:              short + ". This needs the role supervisor.\n" + rule + "\n" + gateNames,
		Example:           example,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeGate(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" && verb != "approve" {
				return usagef("give a reason: --reason '…'")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			gate, err := gateID(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			answer, raw, err := call[api.GateAnswer](decide(cmd.Context(), client, gate, reason))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintln(w, clean(verdict(answer.Gate))) })
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the decision")
	return c
}
