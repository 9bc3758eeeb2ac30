package reviewer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/llm"
)

// Store keeps what a review makes, by stage and ordinal. Each piece is made of an input that
// has a hash: what is stored for another input is not there. It may have answers of models
// from earlier reviews too, since their inputs are all that they depend on.
type Store interface {
	Load(ctx context.Context, stage string, ordinal int, input string) (body []byte, found bool, err error)
	// Save may be repeated with the same body.
	Save(ctx context.Context, stage string, ordinal int, input, mediaType string, body []byte) error
}

// Reviewer reviews changes. It holds no forge.
type Reviewer struct {
	// Model returns the model to ask within a budget, as llm.Client.Model does.
	Model  func(llm.Spend) (llm.Model, error)
	Store  Store
	Redact func(string) string // masks secrets, going to a model and coming back
	Verify bool                // whether findings are looked at a second time
	Tokens int64               // that a review may use at the most; 0 leaves it to the policy
}

// Input is a change with all that a review of it depends on.
type Input struct {
	ReviewID    string // public form
	URL         string // of the review, for people; may be ""
	Repository  string
	PullRequest int
	BaseSHA     string
	HeadSHA     string
	Title       string // neither it nor the description is shown to a model
	Description string
	Diff        string
	Missing     []review.Skip      // files that the forge did not give
	Whole       bool               // the diff is all that there is of the change, and no head is known
	Head        map[string]*string // files at the head, see HeadPaths; nil: not there
	Default     review.Policy      // where Policy says nothing
	Policy      *string            // its text; nil: there is none
	Known       []review.Finding   // of earlier reviews of the change that were no dry runs
	Dismissed   []review.Finding   // of other changes, see review.Round
	Number      int                // 1 for the first review of the change
	Earlier     map[string]bool    // hashes of hunks that the review before saw; nil: not known
	Now         time.Time
	Report      bool // whether the forge takes a report
}

// Outcome is what came of a review.
type Outcome struct {
	review.Settled
	Result    review.Result
	Policy    review.Policy // that decided
	Plan      Plan
	Usage     llm.Usage // paid for by this call
	Paid      llm.Usage // by all calls for this review, those that were broken off too
	Counts    Counts
	Scrubbed  Scrubbed
	Chunks    []Chunk
	Hunks     []string // hashes of all hunks that were reviewed
	Failures  []Failure
	Models    []string // that answered, as they name themselves
	Documents []Document
}

// Unposted makes the verdict an error: the forge does not show what the review came to.
func (o *Outcome) Unposted(code, detail string) {
	o.Result.Verdict = review.Error
	o.Result.Reasons = append([]review.Reason{{Code: code, Detail: detail}}, o.Result.Reasons...)
}

// Failure is a chunk without a usable answer.
type Failure struct {
	Chunk  int    `json:"chunk"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	// Fatal failures make the verdict error: what is in the change may have caused them.
	// Others, such as a provider that is down, leave the change partly read.
	Fatal bool `json:"fatal"`
}

// Review reviews a change. What keeps the change from being judged is a verdict and no error;
// an error is one of the store's, or the cause of ctx's end, and the review may be tried again:
// what a model has answered is not asked again. With an error, the outcome has what was paid.
func (r Reviewer) Review(ctx context.Context, in Input) (Outcome, error) {
	v := &pass{Reviewer: r, in: in, out: Outcome{Policy: in.Default}, asked: map[string]bool{}, failed: map[string]bool{}, sight: map[string]map[review.Side]map[string]bool{}, head: map[string]map[string]bool{}, skipped: slices.Clone(in.Missing)}
	v.Redact = v.guarded(r.Redact)
	injected := v.chunk(ctx)
	var err error
	if len(v.out.Chunks) > 0 {
		err = v.ask(ctx, injected)
	}
	if err == nil {
		v.settle(ctx)
		err = v.document(ctx)
	}
	if err != nil {
		return Outcome{Usage: v.out.Usage, Paid: v.out.Paid}, err
	}
	return v.out, nil
}

// pass is one review while it runs.
type pass struct {
	Reviewer
	in       Input
	out      Outcome
	once     sync.Once  // for the one report that secrets could not be masked
	mu       sync.Mutex // for out.Usage and errors while models are asked
	view     view
	files    []File                                     // all of the diff, scrubbed
	renamed  map[string]string                          // the new path of each renamed file
	sight    map[string]map[review.Side]map[string]bool // see inSight
	head     map[string]map[string]bool                 // see atHead
	asked    map[string]bool                            // files with a part in some chunk
	failed   map[string]bool                            // files with a part that was not answered
	skipped  []review.Skip
	found    []review.Finding
	errors   []review.Reason
	warnings []review.Reason
}

// wrong records why the change cannot be judged, in one line. An error may quote the change.
func (v *pass) wrong(code string, err error) {
	var n int
	v.reason(code, visible(strings.Join(strings.Fields(v.Redact(clean(detailOf(err)))), " "), &n))
}

func (v *pass) reason(code, detail string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.errors = append(v.errors, review.Reason{Code: code, Detail: detail})
}

// detailOf returns what an error says to people.
func detailOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Detail
	}
	return err.Error()
}

// guarded returns redact so that its failure is an error of the review: a text that was not
// searched for secrets goes nowhere.
func (v *pass) guarded(redact func(string) string) func(string) string {
	return func(s string) (out string) {
		defer func() {
			if r := recover(); r != nil {
				v.once.Do(func() { v.reason("scrub_failed", "secrets could not be masked") })
				out = wholly
			}
		}()
		return redact(s)
	}
}

// chunk does all up to what a model is asked. It returns the files with text that is meant
// for the model.
func (v *pass) chunk(ctx context.Context) (injected map[string]bool) {
	_, end := Stage(ctx, "chunk")
	defer func() { end(nil, telemetry.ChunksKey.Int(len(v.out.Chunks))) }()
	if v.in.Policy != nil {
		p, err := review.ParsePolicy(*v.in.Policy, v.in.Default)
		if err != nil {
			v.wrong("policy_invalid", fmt.Errorf("the policy %s: %s", review.PolicyPath, detailOf(err)))
			return nil
		}
		v.out.Policy = p
	}
	raw, err := ParseDiff(v.in.Diff)
	if err != nil {
		if masked := v.Redact(v.in.Diff); masked != v.in.Diff { // half a secret, as an error may quote it, is not found
			if _, err = ParseDiff(masked); err == nil {
				err = errors.New("the diff cannot be read")
			}
		}
		v.wrong("diff_invalid", err)
		return nil
	}
	shown, scrubbed := scrub(raw, v.Redact)
	if len(v.errors) > 0 {
		return nil
	}
	v.files, v.out.Scrubbed = shown, scrubbed
	v.view = view{map[string]File{}, map[string]File{}, v.in.Head, v.Redact}
	for i := range raw {
		v.view.shown[shown[i].Path], v.view.raw[raw[i].Path] = shown[i], raw[i]
	}
	if slices.ContainsFunc(raw, func(f File) bool { return f.Path == review.PolicyPath || f.OldPath == review.PolicyPath }) {
		v.warnings = append(v.warnings, review.Reason{Code: "policy_changed", Detail: "the change changes the policy of this gate; the policy before it decided"})
	}
	chosen, skipped := choose(shown, v.out.Policy, v.Redact)
	v.skipped = append(v.skipped, skipped...)
	injected = v.inject(chosen)
	v.out.Chunks = chunks(chosen, chunkTokens)
	if len(v.out.Chunks) == 0 {
		return nil
	}
	for _, f := range chosen {
		for _, h := range f.Hunks {
			v.out.Hunks = append(v.out.Hunks, h.hash(f.Path))
		}
	}
	return injected
}

// inject finds text that is meant for the model, and returns the files that have it.
func (v *pass) inject(files []File) map[string]bool {
	in := map[string]bool{}
	for _, f := range files {
		found := findInjections(f.Hunks, v.view.raw[f.Path].Hunks)
		named := isInjection(strings.NewReplacer("_", " ", "-", " ", ".", " ", "/", " ").Replace(f.Path))
		// A heading is of the file before the change.
		headed := slices.ContainsFunc(f.Hunks, func(h Hunk) bool { return isInjection(h.Heading) })
		if len(found) == 0 && !named && !headed {
			continue
		}
		in[f.Path] = true
		at, sure := review.Anchor{Path: f.Path}, 0.9
		added := func(weak bool) func(injected) bool {
			return func(i injected) bool { return i.weak == weak && f.Hunks[i.hunk].Lines[i.line].Mark == Addition }
		}
		first := slices.IndexFunc(found, added(false))
		if first < 0 && !named {
			first, sure = slices.IndexFunc(found, added(true)), 0.5
		}
		if first < 0 && !named {
			continue // it was there before, or is taken away
		}
		if first >= 0 {
			h, l := found[first].hunk, found[first].line
			line := f.Hunks[h].Lines[l]
			spot := f.spot(h, l)
			at = review.Anchor{Path: f.Path, Text: review.Normal(line.Text), Symbol: spot.symbol, Index: spot.index}
			at.Side, at.Line = line.Place()
		}
		finding := review.Finding{
			State: review.Open, Category: review.Security, Severity: review.High, Confidence: sure, RuleID: InjectionRule, Anchor: at,
			Title: "Text that is meant for an automated reviewer",
			Body:  "This reads like an instruction to the model that reviews the change, or hides text from people. Whoever merges it should know why it is there.",
		}
		finding.Fingerprint = review.Fingerprint(at, finding.Category, finding.Title)
		v.found = append(v.found, finding)
	}
	if len(in) > 0 {
		v.warnings = append(v.warnings, review.Reason{Code: InjectionRule, Detail: fmt.Sprintf("%s with text that is meant for an automated reviewer", fault.Count(len(in), "file"))})
	}
	if isInjection(v.in.Title) || isInjection(v.in.Description) {
		v.warnings = append(v.warnings, review.Reason{Code: InjectionRule, Detail: "the title or description has text that is meant for an automated reviewer; no model was shown it"})
	}
	return in
}

// settle decides what becomes of the findings, and the verdict.
func (v *pass) settle(ctx context.Context) {
	_, end := Stage(ctx, "decide")
	defer func() {
		end(nil, telemetry.VerdictKey.String(string(v.out.Result.Verdict)), telemetry.FindingsKey.Int(len(v.out.Open)))
	}()
	coverage := review.Coverage{Reviewed: []string{}, Skipped: []review.Skip{}}
	for p := range v.asked {
		coverage.Reviewed = append(coverage.Reviewed, p)
	}
	slices.Sort(coverage.Reviewed)
	coverage.Skipped = append(coverage.Skipped, v.skipped...)
	v.renamed = renames(v.files)
	before := map[string]string{}
	for from, to := range v.renamed {
		before[to] = from
	}
	v.out.Settled = review.Settle(review.Round{
		Number: v.in.Number, Now: v.in.Now, Policy: v.out.Policy, Known: v.in.Known, Dismissed: v.in.Dismissed, Found: v.found, Renames: before,
		Changed: v.changed, Gone: v.gone,
	})
	v.out.Result = v.out.Policy.Decide(review.Facts{Open: v.out.Open, Coverage: coverage, Errors: v.errors, Warnings: v.warnings})
	v.out.Result.CostUSD = v.out.Paid.CostUSD
}

// changed reports whether the hunk of a place is another one than in the review before.
func (v *pass) changed(a review.Anchor) bool {
	f := v.view.shown[a.Path]
	h, _ := f.find(a.Side, a.Line)
	return v.in.Earlier == nil || h < 0 || !v.in.Earlier[f.Hunks[h].hash(f.Path)]
}

// hash names what a hunk changes, wherever it is.
func (h Hunk) hash(path string) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", path)
	for _, l := range h.Lines {
		fmt.Fprintf(sum, "%c%s\n", l.Mark, l.Text)
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// keep stores a piece, unless it is stored already.
func (v *pass) keep(ctx context.Context, stage string, ordinal int, input, mediaType string, body []byte) error {
	_, found, err := v.Store.Load(ctx, stage, ordinal, input)
	if err != nil {
		return fmt.Errorf("load %s %d: %w", stage, ordinal, err)
	}
	if found {
		return nil
	}
	if err := v.Store.Save(ctx, stage, ordinal, input, mediaType, body); err != nil {
		return fmt.Errorf("store %s %d: %w", stage, ordinal, err)
	}
	return nil
}

// digest returns the hash of texts, in hex.
func digest(texts ...string) string {
	raw, _ := json.Marshal(texts) // strings always marshal
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
