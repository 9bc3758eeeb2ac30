package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// maxLineage is the number of runs of a line that are answered at once.
const maxLineage = 1000

// compareRuns answers runs side by side: people read it to choose among the variants that
// they tried.
func (s *Server) compareRuns(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	given, _ := q.text("runs")
	var ids []uuid.UUID
	seen := map[uuid.UUID]bool{}
	var texts []string
	if given != "" {
		texts = strings.Split(given, ",")
	}
	for _, text := range texts {
		id, err := run.RunID.Parse(text)
		switch {
		case err != nil:
			q.bad("runs", fmt.Sprintf("%q is no id of a run; give ids with commas between", text))
		case seen[id]:
			q.bad("runs", fmt.Sprintf("%s is given twice", text))
		}
		seen[id] = true
		ids = append(ids, id)
	}
	if n := len(ids); n < 2 || n > run.MaxCompared {
		q.bad("runs", fmt.Sprintf("has %s; 2 to %d can be compared", fault.Count(n, "id"), run.MaxCompared))
	}
	if err := q.err(); err != nil {
		return err
	}
	cmp, err := s.Store.CompareRuns(c.Request().Context(), p.Tenant, ids)
	if err != nil {
		return err
	}
	plans := make([]run.Plan, len(cmp.Runs))
	for i, r := range cmp.Runs {
		if err := json.Unmarshal(r.Run.Plan, &plans[i]); err != nil {
			return fmt.Errorf("plan of run %s: %w", r.Run.ID, err)
		}
		plans[i] = plans[i].Expanded()
	}
	out := api.Comparison{Runs: convert(cmp.Runs, apiCompared), Steps: []api.StepComparison{}}
	if cmp.Common != nil {
		out.CommonCheckpointID = ptr(run.CheckpointID.Format(*cmp.Common))
	}
	for _, d := range cmp.Differences(plans) {
		step := api.StepComparison{Name: d.Name, Difference: ptr(api.StepDifference(d.First)), Runs: []api.StepInRun{}}
		for i, in := range d.Steps {
			if in != nil {
				step.Runs = append(step.Runs, api.StepInRun{
					RunID: run.RunID.Format(cmp.Runs[i].Run.ID), Status: api.StepStatus(in.State), Restored: in.Restored, TreeDigest: ptr(in.Tree),
				})
			}
		}
		out.Steps = append(out.Steps, step)
	}
	return answer(c, http.StatusOK, out)
}

func apiCompared(r run.Compared) api.ComparedRun {
	out := api.ComparedRun{
		Run: apiRun(r.Run), Gates: []api.ComparedGate{}, Attempts: r.Attempts,
		InputTokens: r.Usage.InputTokens, OutputTokens: r.Usage.OutputTokens, CostUsd: r.Usage.CostUSD,
	}
	if r.Active != nil {
		out.DurationMs = ptr(r.Active.Milliseconds())
	}
	if r.Diff != nil {
		out.Diff = &api.ComparedDiff{Files: r.Diff.Files, LinesAdded: r.Diff.LinesAdded, LinesDeleted: r.Diff.LinesDeleted}
	}
	for _, step := range r.Steps {
		if step.Restored {
			out.RestoredSteps++
		}
	}
	for _, g := range r.Gates {
		out.Gates = append(out.Gates, api.ComparedGate{Step: g.Step, Name: g.Name, Status: api.GateStatus(g.State), Round: g.Round})
	}
	return out
}

// getLineage answers the runs that come from the same first run, and how they come from
// each other, to be drawn.
func (s *Server) getLineage(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	l, err := s.Store.Lineage(c.Request().Context(), p.Tenant, id, maxLineage)
	if err != nil {
		return err
	}
	out := api.Lineage{RootRunID: run.RunID.Format(l.Root), Nodes: []api.LineageNode{}, Edges: []api.LineageEdge{}, Truncated: l.Truncated}
	for _, r := range l.Runs {
		node := api.LineageNode{
			RunID: run.RunID.Format(r.ID), Name: ptr(r.Name), Goal: r.Goal, Status: api.RunStatus(r.State),
			CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.UTC(), FinishedAt: utc(r.FinishedAt),
		}
		out.Nodes = append(out.Nodes, node)
		if r.ParentRunID != nil && r.ParentCheckpointID != nil {
			out.Edges = append(out.Edges, api.LineageEdge{
				Kind: api.LineageEdgeKindBranch, From: run.RunID.Format(*r.ParentRunID), To: node.RunID, CheckpointID: run.CheckpointID.Format(*r.ParentCheckpointID),
			})
		}
	}
	for _, m := range l.Merges {
		out.Edges = append(out.Edges, api.LineageEdge{
			Kind: api.LineageEdgeKindMerge, From: run.RunID.Format(m.SourceRunID), To: run.RunID.Format(m.TargetRunID), CheckpointID: run.CheckpointID.Format(m.CheckpointID),
		})
	}
	return answer(c, http.StatusOK, out)
}
