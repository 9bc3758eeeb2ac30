// Package reviewstep does the work of steps of gate:llm_review: it brings together what a
// review needs from the database, the storage, a model and a forge.
//
// What a review is and how it decides is package reviewer's, which has none of these. A
// review is begun or continued ([Gate.Run]), its change is read (change.go), judged by a
// Reviewer that keeps each piece in storage (store.go), and its end is recorded before the
// step ends. So an attempt that follows a killed worker does nothing that is stored again,
// and asks no model twice.
package reviewstep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/reviewer"
	"nofx.dev/worker/internal/tool"
)

// Config is what reviews work with.
type Config struct {
	DB          *postgres.DB
	Blobs       *blob.Store
	Models      *llm.Client // who reviews; nil: reviews are refused
	Verify      bool        // findings are looked at a second time
	Tokens      int64       // that a review may use at the most; 0: as its policy says
	Hosts       map[review.Provider]OpenHost
	Credentials Credentials // that repositories name
	Redactor    *telemetry.Redactor
	Metrics     *telemetry.Metrics
	URL         func(review string) string // of a review's page, by its public id; nil: there is none
}

// Gate reviews changes. It is safe for concurrent use.
type Gate struct{ cfg Config }

// New makes a Gate.
func New(cfg Config) *Gate { return &Gate{cfg} }

// Masking returns the Gate with another redactor of all that it lets out.
func (g *Gate) Masking(r *telemetry.Redactor) *Gate {
	cfg := g.cfg
	cfg.Redactor = r
	return &Gate{cfg}
}

// Call is one attempt at a step.
type Call struct {
	Claim *postgres.Claim
	Tree  tree.Digest // of the workspace that the step starts from
	Log   io.Writer   // of the step

	// Fresh returns once the attempt may write, or the error that it may no more.
	Fresh func(context.Context) error
}

// Run reviews the change of a step and returns the verdict. What keeps a change from being
// judged is the verdict Error, never a pass; an error is a [tool.Failure], one of the
// infrastructure, or the end of ctx, and the next attempt goes on where this one ended.
func (g *Gate) Run(ctx context.Context, c Call) (tool.Result, error) {
	in, err := run.Inputs[run.ReviewInputs](c.Claim.Spec.Inputs)
	if err != nil {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
	}
	settings, err := g.cfg.DB.ReviewSettings(ctx, c.Claim.TenantID)
	if err != nil {
		return tool.Result{}, err
	}
	switch {
	case settings.Disabled:
		return refused("reviews are switched off for this tenant (reviews_enabled)"), nil
	case g.cfg.Models == nil:
		return tool.Result{}, tool.Failuref(run.ClassPolicy, "reviews need a model, and this worker has none (NOFX_LLM_PROVIDER)")
	}
	v, err := g.cfg.DB.BeginReview(ctx, c.Claim, in, in.HeadSHA)
	if err != nil {
		return tool.Result{}, err
	}
	a := &attempt{Config: g.cfg, call: c, inputs: in, review: v, began: time.Now()}
	if v.State == review.Running {
		err := a.judge(ctx)
		if a.close != nil {
			a.close()
		}
		var moved superseded
		if errors.As(err, &moved) {
			err = a.supersede(ctx, string(moved))
		}
		if err != nil {
			return tool.Result{Usage: a.usage}, err
		}
	}
	return a.result()
}

// attempt is one attempt at a review.
type attempt struct {
	Config
	call   Call
	inputs run.ReviewInputs
	review review.Review // as it is by now
	usage  run.Usage
	began  time.Time

	host   reviewer.CodeHost // of a pull request
	close  func()
	posted *reviewer.Posted // what is on the forge
}

// supersede ends a review whose head is no longer that of its change, or has another review.
func (a *attempt) supersede(ctx context.Context, why string) error {
	if a.review.State == review.Running {
		if err := a.DB.OutdateReview(ctx, a.call.Claim, a.review.ID, why); err != nil {
			return err
		}
	}
	a.review.State, a.review.Reason = review.Superseded, why
	return nil
}

func (a *attempt) store() *store {
	return &store{Config: a.Config, call: a.call, review: a.review.ID, reuse: a.inputs.Reuse != run.ReuseNone}
}

func (a *attempt) id() string { return run.ReviewID.Format(a.review.ID) }

// judge takes a running review to its end.
func (a *attempt) judge(ctx context.Context) error {
	in, err := a.fetch(ctx)
	if err != nil {
		return err
	}
	r := reviewer.Reviewer{
		Model:  func(most llm.Spend) (llm.Model, error) { return a.Models.Model("", llm.NewBudget(most, a.day())) },
		Store:  a.store(),
		Redact: a.Redactor.String, Verify: a.Verify, Tokens: a.Tokens,
	}
	out, err := r.Review(ctx, in)
	a.usage = run.Usage{InputTokens: out.Usage.Input, OutputTokens: out.Usage.Output, CachedTokens: out.Usage.Cached, CostUSD: out.Usage.CostUSD}
	if err == nil && a.host != nil && !a.review.DryRun {
		err = a.post(ctx, &out)
	}
	if err != nil {
		return err
	}
	return a.finish(ctx, out)
}

// fetch reads what is reviewed, and what is known of it.
func (a *attempt) fetch(ctx context.Context) (in reviewer.Input, err error) {
	ctx, end := reviewer.Stage(ctx, "fetch")
	defer func() {
		failed := err
		if _, moved := errors.AsType[superseded](err); moved { // which is no failure
			failed = nil
		}
		end(failed)
	}()
	change, err := a.change(ctx)
	if err != nil {
		return in, err
	}
	known, dismissed, err := a.DB.KnownFindings(ctx, a.call.Claim.TenantID, a.review)
	if err != nil {
		return in, err
	}
	number, earlier, err := a.round(ctx)
	if err != nil {
		return in, err
	}
	in = reviewer.Input{
		ReviewID: a.id(), Repository: a.review.Repository, PullRequest: a.review.PullRequest,
		BaseSHA: change.base, HeadSHA: change.head, Title: change.title, Description: change.description,
		Diff: change.diff, Whole: a.review.Provider == review.Diff, Missing: change.missing, Policy: change.policy, Default: review.DefaultPolicy(),
		Known: known, Dismissed: dismissed, Number: number + 1, Earlier: earlier, Now: time.Now().UTC(),
	}
	if change.bound != "" {
		if in.Default, err = review.ParsePolicy(change.bound, in.Default); err != nil {
			in.Policy = &change.bound // the verdict is an error and says what is wrong
			in.Default = review.DefaultPolicy()
		}
	}
	if a.URL != nil {
		in.URL = a.URL(a.id())
	}
	in.Report = a.host != nil && a.host.Capabilities().Report
	in.Head, err = change.files(ctx, reviewer.HeadPaths(change.diff, known))
	return in, err
}

// round returns the number of reviews before this one, and the hunks that the newest of
// them has seen.
func (a *attempt) round(ctx context.Context) (n int, earlier map[string]bool, err error) {
	n, last, err := a.DB.ReviewRound(ctx, a.call.Claim.TenantID, a.review, reviewer.ChunksDocument)
	if err != nil || last == nil {
		return n, nil, err
	}
	raw, err := read(ctx, a.Blobs, *last)
	if err != nil {
		return n, nil, err
	}
	var chunks struct{ Hunks []string }
	if err := json.Unmarshal(raw, &chunks); err != nil {
		return n, nil, fmt.Errorf("chunks of the review before: %w", err)
	}
	earlier = make(map[string]bool, len(chunks.Hunks))
	for _, h := range chunks.Hunks {
		earlier[h] = true
	}
	return n, earlier, nil
}

// finish records what a review came to.
func (a *attempt) finish(ctx context.Context, out reviewer.Outcome) error {
	raw, err := json.Marshal(struct {
		review.Result
		Counts map[string]int `json:"counts"`
	}{out.Result, counts(out)})
	if err != nil {
		return fmt.Errorf("result as JSON: %w", err)
	}
	end := postgres.ReviewEnd{
		Verdict: out.Result.Verdict, Result: raw, PolicyHash: out.Policy.Hash(),
		Tokens: out.Paid.Input + out.Paid.Output, CostUSD: out.Paid.CostUSD,
	}
	if len(out.Models) > 0 {
		end.Model = out.Models[0]
	}
	if a.posted != nil {
		end.Posted = &postgres.ReviewPosted{Route: string(a.posted.Route), Expected: len(out.Plan.Comments), Posted: len(a.posted.Comments)}
	}
	for _, o := range out.Occurrences {
		id := run.NewID()
		switch {
		case o.Finding.ID != "":
			if id, err = run.FindingID.Parse(o.Finding.ID); err != nil {
				return err
			}
		case !o.New:
			continue // the same as another one of this review
		}
		end.Occurrences = append(end.Occurrences, postgres.Occurrence{ID: id, Finding: o.Finding, Disposition: o.Disposition, Why: o.Why})
	}
	for _, f := range out.Fixed {
		id, err := run.FindingID.Parse(f.Finding.ID)
		if err != nil {
			return err
		}
		end.Fixed = append(end.Fixed, postgres.Fix{ID: id, Evidence: f.Evidence})
	}
	if err := a.call.Fresh(ctx); err != nil {
		return err
	}
	if err := a.DB.FinishReview(ctx, a.call.Claim, a.review.ID, end); err != nil {
		return err
	}
	a.tell(out)
	a.Metrics.ReviewDuration.Observe(ctx, time.Since(a.began).Seconds(), string(a.review.Provider), string(out.Result.Verdict))
	for _, o := range out.Occurrences {
		a.Metrics.ReviewFindings.Inc(string(o.Finding.Severity), string(o.Disposition))
		if o.New && o.Finding.State == review.Dismissed && !a.review.DryRun {
			a.Metrics.ReviewResolutions.Inc(string(review.Dismissed), "review")
		}
	}
	if !a.review.DryRun {
		a.Metrics.ReviewResolutions.Add(float64(len(out.Fixed)), string(review.Fixed), "review")
	}
	a.review.State, a.review.Verdict, a.review.Result = review.Completed, out.Result.Verdict, raw
	return nil
}

// counts returns how many findings of a review there are, by what became of them.
func counts(out reviewer.Outcome) map[string]int {
	n := map[string]int{"open": len(out.Open), "fixed": len(out.Fixed)}
	for _, o := range out.Occurrences {
		n[string(o.Disposition)]++
		if o.New {
			n["new"]++
		}
	}
	for _, f := range out.Open {
		if out.Policy.Blocks(f) {
			n["blocking"]++
		}
	}
	return n
}

// tell writes to the step's log what a review came to.
func (a *attempt) tell(out reviewer.Outcome) {
	for _, o := range out.Occurrences {
		f := o.Finding
		fmt.Fprintf(a.call.Log, "%s:%d: %s: %s (%s)\n", printable(f.Anchor.Path), f.Anchor.Line, f.Severity, f.Title, o.Disposition)
	}
	for _, r := range out.Result.Warnings {
		fmt.Fprintf(a.call.Log, "warning: %s\n", printable(r.Detail))
	}
	for _, r := range out.Result.Reasons {
		fmt.Fprintf(a.call.Log, "%s: %s\n", out.Result.Verdict, printable(r.Detail))
	}
}

// printable returns a text that others wrote, such as a path, for a line of a log.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// maxReasons is how many reasons of a verdict the evidence of a gate has.
const maxReasons = 20

// result returns the result of the step whose review is over.
func (a *attempt) result() (tool.Result, error) {
	if a.review.State == review.Superseded {
		r := refused(a.review.Reason)
		r.Outputs["review_id"], r.Evidence["review_id"] = a.id(), a.id()
		return r, nil
	}
	var result struct {
		review.Result
		Counts map[string]int `json:"counts"`
	}
	if err := json.Unmarshal(a.review.Result, &result); err != nil {
		return tool.Result{}, fmt.Errorf("result of review %s: %w", a.id(), err)
	}
	verdict := run.State(result.Verdict)
	evidence := map[string]any{
		"review_id": a.id(), "verdict": string(verdict), "reasons": first(result.Reasons), "warnings": first(result.Warnings), "counts": result.Counts,
		"reviewed": len(result.Coverage.Reviewed), "skipped": len(result.Coverage.Skipped),
	}
	if verdict != run.Passed && len(result.Reasons) > 0 {
		evidence["reason"] = result.Reasons[0].Detail
		if more := len(result.Reasons) - 1; more > 0 {
			evidence["reason"] = fmt.Sprintf("%s, and %d more", result.Reasons[0].Detail, more)
		}
	}
	return tool.Result{
		Verdict: verdict, Evidence: evidence, Usage: a.usage,
		Outputs: map[string]any{"verdict": string(verdict), "review_id": a.id(), "findings": result.Counts["open"], "blocking": result.Counts["blocking"]},
	}, nil
}

func first(reasons []review.Reason) []review.Reason { return reasons[:min(len(reasons), maxReasons)] }

// refused returns the result of a review that did not take place.
func refused(why string) tool.Result {
	return tool.Result{
		Verdict: run.Error, Outputs: map[string]any{"verdict": string(run.Error)},
		Evidence: map[string]any{"verdict": string(run.Error), "reason": why},
	}
}

// read returns the bytes of an artifact.
func read(ctx context.Context, blobs *blob.Store, a run.Artifact) ([]byte, error) {
	content, err := blobs.Open(ctx, a.Key, 0, a.Size)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}

// lost reports whether an error says that stored bytes are not there any more.
func lost(err error) bool {
	key, _ := blob.Lost(err)
	return key != "" || errors.Is(err, fault.Gone) || errors.Is(err, fault.NotFound)
}
