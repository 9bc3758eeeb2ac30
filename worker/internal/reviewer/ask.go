package reviewer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/llm"
)

// maxQuoted is how much of an answer that does not hold to its schema goes back to its author.
const maxQuoted = 64 << 10

// together is how many chunks are asked about at once.
const together = 4

// asking is what comes of one chunk.
type asking struct {
	chunk      Chunk
	found      []review.Finding
	failure    *Failure
	unverified int
	counts     Counts
	models     []string
}

// ask asks the model about each chunk, and about what it finds there.
func (v *pass) ask(ctx context.Context, injected map[string]bool) (err error) {
	ctx, end := Stage(ctx, "ask")
	defer func() {
		end(err, telemetry.ChunksKey.Int(len(v.out.Chunks)), telemetry.FindingsKey.Int(len(v.found)))
	}()
	tokens := v.out.Policy.Limits.Tokens
	if v.Tokens > 0 {
		tokens = min(tokens, v.Tokens)
	}
	model, err := v.Model(llm.Spend{Tokens: tokens, CostUSD: v.out.Policy.Limits.CostUSD})
	if err != nil {
		v.wrong("no_model", err)
		for _, c := range v.out.Chunks {
			v.unanswered(c, "the model cannot be asked")
		}
		return nil
	}
	all := make([]asking, len(v.out.Chunks))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(together)
	for i, c := range v.out.Chunks {
		all[i].chunk = c
		group.Go(func() error { return v.review(groupCtx, model, &all[i], injected) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	unverified := 0
	fatal := map[string][]Failure{}
	for _, a := range all {
		v.out.Counts.add(a.counts)
		for _, m := range a.models {
			if !slices.Contains(v.out.Models, m) {
				v.out.Models = append(v.out.Models, m)
			}
		}
		if f := a.failure; f != nil {
			v.out.Failures = append(v.out.Failures, *f)
			if f.Fatal {
				fatal[f.Code] = append(fatal[f.Code], *f)
			}
			v.unanswered(a.chunk, f.Detail)
			continue
		}
		v.found = append(v.found, a.found...)
		unverified += a.unverified
		for _, p := range a.chunk.Parts {
			v.asked[p.Path] = true
		}
	}
	for _, code := range slices.Sorted(maps.Keys(fatal)) { // one reason for each way to fail, however often
		first, more := fatal[code][0], ""
		if n := len(fatal[code]) - 1; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		v.wrong(code, fmt.Errorf("chunk %d of %d%s: %s", first.Chunk, len(all), more, first.Detail))
	}
	if unverified > 0 {
		v.warnings = append(v.warnings, review.Reason{Code: "unverified", Detail: fmt.Sprintf("%s not looked at a second time", fault.Count(unverified, "finding"))})
	}
	return nil
}

// review asks about one chunk. An error is the store's, or the cause of ctx's end.
func (v *pass) review(ctx context.Context, model llm.Model, a *asking, injected map[string]bool) error {
	seen := v.view
	seen.shown = map[string]File{}
	hostile := false
	for _, p := range a.chunk.Parts {
		seen.shown[p.Path] = p.file
		hostile = hostile || injected[p.Path]
	}
	answer, err := v.answer(ctx, model, a)
	if err != nil || a.failure != nil {
		return err
	}
	for _, one := range answer.Findings {
		if f, ok := seen.finding(one, &a.counts); ok {
			a.found = append(a.found, f)
		}
	}
	// What tries to steer the model could steer the second pass too, which only takes away.
	if !v.Verify || len(a.found) == 0 || hostile {
		return nil
	}
	return v.verify(ctx, model, a)
}

// unanswered records that the files of a chunk were not reviewed, or not wholly.
func (v *pass) unanswered(c Chunk, why string) {
	for _, p := range c.Parts {
		if !v.failed[p.Path] {
			v.failed[p.Path] = true
			v.skipped = append(v.skipped, review.Skip{Path: p.Path, Reason: review.SkippedFailed, Detail: why})
		}
	}
}

// answer returns the answer about a chunk, asked for once more if it does not hold to the
// schema. Without one, the chunk's failure is set.
func (v *pass) answer(ctx context.Context, model llm.Model, a *asking) (Answer, error) {
	c := a.chunk
	request := c.request(v.out.Policy)
	key := digest(c.Hash, v.out.Policy.Hash(), PromptVersion, model.Name())
	text, err := v.complete(ctx, model, a, "", key, request)
	if err != nil || a.failure != nil {
		return Answer{}, err
	}
	answer, wrong := readAnswer(text)
	if wrong == nil {
		return answer, nil
	}
	if err := v.keep(ctx, "errors", c.Ordinal, key, "text/plain; charset=utf-8", []byte(v.Redact(wrong.Error()))); err != nil {
		return Answer{}, err
	}
	a.counts.Repaired++
	request.Parts = append(request.Parts,
		llm.Part{Name: "your answer", Text: v.Redact(cut(clean(text), maxQuoted)), Untrusted: true},
		llm.Part{Name: "what is wrong with it", Text: v.Redact(wrong.Error()), Untrusted: true},
		llm.Part{Text: "Your answer does not hold to the schema. Answer again, complete and corrected."})
	text, err = v.complete(ctx, model, a, "repair_", digest(key, text), request)
	if err != nil || a.failure != nil {
		return Answer{}, err
	}
	if answer, wrong = readAnswer(text); wrong != nil {
		a.fail("invalid_answer", "the model's answer does not hold to its schema, nor did the one before", true)
	}
	return answer, nil
}

// verify leaves of the findings of a chunk what the second pass does. Without it all stay:
// it can only take away.
func (v *pass) verify(ctx context.Context, model llm.Model, a *asking) (err error) {
	ctx, end := Stage(ctx, "verify")
	defer func() { end(err, telemetry.FindingsKey.Int(len(a.found))) }()
	request, err := a.chunk.verifyRequest(a.found)
	if err != nil {
		return err
	}
	found := request.Parts[len(request.Parts)-2].Text
	text, err := v.complete(ctx, model, a, "verify_", digest(a.chunk.Hash, found, PromptVersion, model.Name()), request)
	if err != nil {
		return err
	}
	wrong := errors.New("there is no answer")
	if a.failure == nil {
		a.found, wrong = verified(a.found, text, &a.counts)
	}
	if wrong != nil {
		a.failure, a.unverified = nil, len(a.found)
	}
	return nil
}

func (a *asking) fail(code, detail string, fatal bool) {
	a.failure = &Failure{a.chunk.Ordinal, code, detail, fatal}
}

// storedAnswer is an answer as the store has it.
type storedAnswer struct {
	ReviewID string `json:"review_id"` // that asked, and paid
	llm.Response
}

// complete returns the text of an answer, from the store if it is there. Prompt and answer
// are stored before anything else happens with them, so that no answer is paid for twice.
// Without a complete answer, the chunk's failure is set.
func (v *pass) complete(ctx context.Context, model llm.Model, a *asking, prefix, key string, request llm.Request) (string, error) {
	n := a.chunk.Ordinal
	stored, err := v.stored(ctx, prefix+"answer", n, key, request.Schema)
	if err != nil {
		return "", err
	}
	if stored != nil {
		a.ended(stored.Response)
		return stored.Text, nil
	}
	if limit := v.out.Policy.Limits.CostUSD; v.cost() >= limit {
		a.fail("budget_spent", fmt.Sprintf("the %g US dollars that a review may cost are spent", limit), true)
		return "", nil
	}
	prompt, err := json.MarshalIndent(struct {
		Model  string     `json:"model"`
		System string     `json:"system"`
		Parts  []llm.Part `json:"parts"`
		Schema string     `json:"schema"`
	}{model.Name(), request.System, request.Parts, request.Schema.Name}, "", " ")
	if err != nil {
		return "", fmt.Errorf("prompt %d as JSON: %w", n, err)
	}
	if err := v.keep(ctx, prefix+"prompt", n, key, "application/json", prompt); err != nil {
		return "", err
	}
	resp, err := model.Complete(ctx, request)
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		a.unasked(err)
		return "", nil
	}
	v.pay(resp.Usage, true)
	raw, err := json.MarshalIndent(storedAnswer{v.in.ReviewID, resp}, "", " ")
	if err != nil {
		return "", fmt.Errorf("answer %d as JSON: %w", n, err)
	}
	// It is paid for: it is stored even if the review is being given up.
	if err := v.Store.Save(context.WithoutCancel(ctx), prefix+"answer", n, key, "application/json", raw); err != nil {
		return "", fmt.Errorf("store answer %d: %w", n, err)
	}
	a.ended(resp)
	return resp.Text, nil
}

// stored returns an answer that is in the store, or nil. What another review was answered counts
// only if it is of use: whoever asks again after a refusal wants another answer.
func (v *pass) stored(ctx context.Context, stage string, ordinal int, key string, schema *llm.Schema) (*storedAnswer, error) {
	raw, found, err := v.Store.Load(ctx, stage, ordinal, key)
	if err != nil {
		return nil, fmt.Errorf("load %s %d: %w", stage, ordinal, err)
	}
	if !found {
		return nil, nil
	}
	var s storedAnswer
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%s %d as stored: %w", stage, ordinal, err)
	}
	if s.ReviewID == v.in.ReviewID {
		v.pay(s.Usage, false)
	} else if s.Stop != llm.End || schema.Check(s.Text) != nil {
		return nil, nil
	}
	return &s, nil
}

func (v *pass) cost() float64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.out.Paid.CostUSD
}

// pay counts what an answer took, by this call or by one before it of the same review.
func (v *pass) pay(u llm.Usage, now bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Paid = v.out.Paid.Add(u)
	if now {
		v.out.Usage = v.out.Usage.Add(u)
	}
}

// ended sets the failure of an answer that is not complete.
func (a *asking) ended(resp llm.Response) {
	if resp.Model != "" {
		a.models = append(a.models, resp.Model)
	}
	switch resp.Stop {
	case llm.End:
	case llm.Refusal:
		a.fail("refused", "the model refused", true)
	case llm.Length:
		a.fail("truncated", "the model's answer was cut off", true)
	default:
		a.fail("invalid_answer", fmt.Sprintf("the model's answer ended with %.40q", resp.Stop), true)
	}
}

// unasked sets the failure of a chunk for which there is no answer.
func (a *asking) unasked(err error) {
	e, ok := errors.AsType[*fault.Error](err)
	switch {
	case !ok:
		a.fail("model_failed", "the model could not be asked", true)
	case e.Code == "token-limit" || e.Code == "cost-limit":
		a.fail("budget_spent", e.Detail, true)
	case e.Kind == fault.RateLimited || e.Kind == fault.Unavailable:
		a.fail("unavailable", e.Detail, false)
	default:
		a.fail("model_failed", e.Detail, true)
	}
}
