package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/edit"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/rules"
	"nofx.dev/worker/internal/sieve"
)

const (
	// answerTokens is the longest answer that is asked for. A budget may allow less.
	answerTokens = 16_000
	// maxListed bounds the names of files that are not shown, in bytes.
	maxListed = 16 << 10
	// maxQuoted is how much of an answer that is not valid goes back, and to the log.
	maxQuoted = 64 << 10
)

// codegenSystem is all that a model is told by us. It holds nothing secret.
const codegenSystem = `You change the files of a workspace as the instruction says, and answer with JSON of the given schema.
- "write" makes a new file, or replaces all of one that you were shown. "edit" replaces parts of a file: each search text is copied from it exactly, white space included, and occurs in it once. "delete" removes a file.
- Paths are relative to the workspace. Change what the instruction needs and nothing else.
- Where a text shows [redacted], a secret was taken out. Never write that word into a file.`

// codegen asks the model for changes of the workspace's files and makes them, all or
// none. What it may read are the text files that paths choose; symlinks, .git and what
// is reserved are not there for it, and secrets are masked. An answer that cannot be
// carried out is asked for once more, with what is wrong with it.
//
// Outputs: files, the paths changed, as far as they fit; total, how many; model, that answered; tokens, of all calls.
func (b *Box) codegen(ctx context.Context, c Call, in run.CodegenInputs) (r Result, err error) {
	if b.cfg.Models == nil {
		return Result{}, Failuref(run.ClassPolicy, "codegen needs a language model, and this worker has none (NOFX_LLM_PROVIDER)")
	}
	tokens := b.cfg.ModelTokens
	if in.MaxTokens != nil {
		tokens = min(tokens, int64(*in.MaxTokens))
	}
	model, err := b.cfg.Models.Model(in.Model, llm.NewBudget(llm.Spend{Tokens: tokens}))
	if err != nil {
		return Result{}, noModel(ctx, err)
	}
	root, err := os.OpenRoot(c.Workspace)
	if err != nil {
		return Result{}, Failuref(run.ClassInfrastructure, "open workspace: %w", err)
	}
	defer root.Close()
	patterns := in.Paths
	if len(patterns) == 0 {
		patterns = []string{"**"}
	}
	files, err := edit.Collect(ctx, root, patterns, b.cfg.Redactor.String)
	if err != nil {
		return Result{}, unread(ctx, err)
	}
	fmt.Fprintf(c.Log, "asking %s of %s, showing %s\n", model.Name(), b.cfg.Models.Provider(), fault.Count(len(files.Shown), "file"))
	for _, p := range files.Skipped {
		fmt.Fprintf(c.Log, "not shown, since it is no text: %s\n", p)
	}
	request := b.codegenRequest(in.Instruction, files)
	var used llm.Usage
	for try := 1; ; try++ {
		resp, err := model.Complete(ctx, request)
		used = used.Add(resp.Usage)
		r.Usage = run.Usage{InputTokens: used.Input, OutputTokens: used.Output, CachedTokens: used.Cached, CostUSD: used.CostUSD}
		if err != nil {
			return r, noModel(ctx, err)
		}
		fmt.Fprintf(c.Log, "%s answered: %s read, %d written\n", resp.Model, fault.Count(resp.Usage.Input, "token"), resp.Usage.Output)
		answer, changes, err := accept(root, resp, files)
		invalid, ok := errors.AsType[*edit.Invalid](err)
		switch {
		case err == nil:
			return r.changed(c, root, answer, changes, resp.Model, used)
		case !ok:
			return r, err
		}
		quoted := sieve.Beginning(b.masked(resp.Text), maxQuoted)
		fmt.Fprintf(c.Log, "the answer cannot be carried out:\n  %s\n%s\n", strings.Join(invalid.Problems, "\n  "), quoted)
		if try == 2 {
			return r, Failuref(run.ClassTool, "the model's answer cannot be carried out, nor could the one before")
		}
		request.Parts = append(request.Parts,
			llm.Part{Name: "your answer", Text: quoted, Untrusted: true},
			llm.Part{Name: "what is wrong with it", Text: b.masked(strings.Join(invalid.Problems, "\n")), Untrusted: true},
			llm.Part{Text: "Your answer could not be carried out, and nothing was changed. Answer again, complete and corrected."})
	}
}

// codegenRequest returns what the model is asked. The instruction is the plan's; files
// and their names are nobody's word.
func (b *Box) codegenRequest(instruction string, files edit.Collection) llm.Request {
	r := llm.Request{System: codegenSystem, Schema: edit.Schema, MaxTokens: answerTokens}
	for _, f := range files.Shown {
		r.Parts = append(r.Parts, llm.Part{Name: f.Path, Text: f.Text, Untrusted: true})
	}
	if len(files.Others) > 0 {
		names := b.masked(strings.Join(files.Others, "\n"))
		if len(names) > maxListed {
			names = names[:strings.LastIndexByte(names[:maxListed+1], '\n')+1] + "and more"
		}
		r.Parts = append(r.Parts, llm.Part{Name: "further files of the workspace, by name only", Text: names, Untrusted: true})
	}
	r.Parts = append(r.Parts, llm.Part{Name: "Instruction", Text: b.masked(instruction)})
	return r
}

// accept returns the changes that an answer comes to. What its author could do better is
// an *edit.Invalid, all else a *Failure.
func accept(root *os.Root, resp llm.Response, files edit.Collection) (edit.Answer, []edit.Change, error) {
	switch resp.Stop {
	case llm.Refusal:
		return edit.Answer{}, nil, Failuref(run.ClassTool, "the model refused%s", because(resp))
	case llm.Length:
		return edit.Answer{}, nil, Failuref(run.ClassTool, "the model's answer was cut off after %s; ask for less at once", fault.Count(resp.Usage.Output, "token"))
	}
	answer, err := edit.Parse(resp.Text)
	if err != nil {
		return answer, nil, err
	}
	changes, err := edit.Prepare(root, answer, files.Shown)
	if _, ok := errors.AsType[*edit.Invalid](err); err != nil && !ok {
		err = broken("look at the workspace", err)
	}
	return answer, changes, err
}

// because returns why our own rules refused; a model's reasons are for the log alone.
func because(resp llm.Response) string {
	if resp.Model == rules.Name && resp.Text != "" {
		return ": " + resp.Text
	}
	return ""
}

// changed makes the changes and reports them.
func (r Result) changed(c Call, root *os.Root, a edit.Answer, changes []edit.Change, model string, used llm.Usage) (Result, error) {
	if err := edit.Apply(root, changes); err != nil {
		return r, broken("change files", err)
	}
	fmt.Fprintf(c.Log, "%s\n", cmp.Or(strings.Join(strings.Fields(a.Summary), " "), "no summary"))
	paths := make([]string, len(changes))
	for i, change := range changes {
		paths[i] = change.Path
		if change.Content == nil {
			fmt.Fprintf(c.Log, "deleted %s\n", change.Path)
		} else {
			fmt.Fprintf(c.Log, "wrote %s, %s\n", change.Path, fault.Count(len(change.Content), "byte"))
		}
	}
	r.Outputs = map[string]any{"files": Fit(paths), "total": len(paths), "model": model, "tokens": used.Input + used.Output}
	return r, nil
}

// noModel returns why a model gave no answer. What may be over soon is tried again with
// the step; a worker whose key is refused, or who may not ask, is a matter of policy.
func noModel(ctx context.Context, err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	switch {
	case ctx.Err() != nil:
		return ended(ctx)
	case !ok:
		return Failuref(run.ClassInfrastructure, "the model could not be asked: %w", err)
	}
	f := &Failure{Class: run.ClassInvalid, Reason: e.Detail, Err: err}
	switch e.Kind {
	case fault.RateLimited, fault.Unavailable:
		f.Class, f.RetryAfter = run.ClassInfrastructure, e.RetryAfter
	case fault.Unauthenticated, fault.Forbidden:
		f.Class = run.ClassPolicy
	}
	return f
}

// unread returns why the workspace could not be read.
func unread(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return Failuref(run.ClassInvalid, "%s", e.Detail)
	}
	return broken("read the workspace", err)
}
