package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) branchCommand() *cobra.Command {
	return group("branch", "Start runs from checkpoints of other runs", a.branchCreateCommand())
}

// branchFlags are the flags of branch create.
type branchFlags struct {
	name, statePatch, planPatch, reason, key string
	set, files, deletes, variants            []string
	dryRun, reuseEffects, force, watch       bool
}

func (a *app) branchCreateCommand() *cobra.Command {
	var f branchFlags
	c := &cobra.Command{
		Use:   "create RUN [CHECKPOINT]",
		Short: "Branch a run from a checkpoint, perhaps with other state, files or plan",
		Long: `Branch a run from one of its checkpoints, the newest by default. The branch is a new run.
Steps that had succeeded there are restored, all others run; gates judge again, and what
comes after them waits for that. The parent stays as it is.

--set and --state-patch change variables (/vars) and outputs of restored steps
(/steps/NAME/outputs); --file and --delete change the workspace; --plan-patch changes the
plan. Patches are files of JSON as in RFC 6902, or - for standard input. A local file that
is executable stays so; ART_ID in its place names an uploaded artifact.

--variant makes several branches at once, all or none: each file holds {"name"?,
"state_patch"?, "files"?, "plan_patch"?}, which come after the changes of the other flags.
The name is that of the file by default. --dry-run shows what would happen.`,
		Example: `  nofx branch create RUN CHECKPOINT --dry-run
  nofx branch create RUN CHECKPOINT --set /vars/retries=3 --file go.mod=./go.mod --watch
  nofx branch create RUN --variant small.json --variant large.json`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := a.branchRequest(f)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			if body["checkpoint_id"], err = checkpointArg(cmd.Context(), client, args); err != nil {
				return err
			}
			raw, err := encoded(body)
			if err != nil {
				return err
			}
			if f.key == "" {
				f.key = rand.Text()
			}
			request := func() ([]byte, api.CreatedBranches, api.BranchPreview, error) {
				params := &api.CreateBranchesParams{IdempotencyKey: &f.key, Traceparent: optional(a.getenv("TRACEPARENT"))}
				if f.dryRun {
					p, raw, err := call[api.BranchPreview](client.CreateBranchesWithBody(cmd.Context(), args[0], params, "application/json", bytes.NewReader(raw)))
					return raw, api.CreatedBranches{}, p, err
				}
				made, raw, err := call[api.CreatedBranches](client.CreateBranchesWithBody(cmd.Context(), args[0], params, "application/json", bytes.NewReader(raw)))
				return raw, made, api.BranchPreview{}, err
			}
			answered, made, preview, err := request()
			switch {
			case err != nil:
				return err
			case f.dryRun:
				return a.answer(answered, func(w io.Writer) { a.printBranchPreview(w, preview) })
			case made.Run != nil:
				return a.started(cmd.Context(), client, *made.Run, answered, f.watch)
			}
			return a.answer(answered, func(w io.Writer) {
				rows, ids := make([][]string, len(made.Runs)), make([]string, len(made.Runs))
				for i, r := range made.Runs {
					rows[i], ids[i] = []string{deref(r.Name), r.ID, string(r.Status)}, r.ID
				}
				a.table(w, []string{"NAME", "RUN", "STATUS"}, rows)
				fmt.Fprintf(w, "compare: %s run compare %s\n", a.self(), strings.Join(ids, " "))
			})
		},
	}
	flags := c.Flags()
	flags.StringVar(&f.name, "name", "", "what to call the branch")
	flags.StringArrayVar(&f.set, "set", nil, "set a value: POINTER=JSON, such as /vars/retries=3 (repeatable)")
	flags.StringVar(&f.statePatch, "state-patch", "", "file with a patch of the state")
	flags.StringArrayVar(&f.files, "file", nil, "write a file: PATH=LOCAL, or PATH=ART_ID (repeatable)")
	flags.StringArrayVar(&f.deletes, "delete", nil, "delete a path and all below it (repeatable)")
	flags.StringVar(&f.planPatch, "plan-patch", "", "file with a patch of the plan, which has all defaults as run create --preview --json prints it")
	flags.StringArrayVar(&f.variants, "variant", nil, "file with the changes of one of several branches (repeatable)")
	for _, name := range []string{"state-patch", "plan-patch", "variant"} {
		fileFlag(c, name)
	}
	flags.BoolVar(&f.dryRun, "dry-run", false, "only show what is restored, what runs and why, and which effects were done before")
	flags.BoolVar(&f.reuseEffects, "reuse-effects", false, "use the results of requests to other services that the parent has done")
	flags.BoolVar(&f.force, "force", false, "edit outputs of a step although it has done requests to other services; needs --reason")
	flags.StringVar(&f.reason, "reason", "", "why, kept with the edits")
	flags.BoolVar(&f.watch, "watch", false, "show its progress until it ends")
	flags.StringVar(&f.key, "idempotency-key", "", "key that makes the command repeatable: the branch is made once")
	c.MarkFlagsMutuallyExclusive("watch", "dry-run")
	c.MarkFlagsMutuallyExclusive("watch", "variant")
	c.MarkFlagsMutuallyExclusive("name", "variant")
	return c
}

// checkpointArg returns the checkpoint that the arguments name, or the newest of the run.
func checkpointArg(ctx context.Context, client *api.Client, args []string) (string, error) {
	if len(args) > 1 {
		return args[1], nil
	}
	d, _, err := call[api.RunDetail](client.GetRun(ctx, args[0]))
	if err != nil {
		return "", err
	}
	if d.Run.HeadCheckpointID == nil {
		return "", fmt.Errorf("run %s has no checkpoint yet: %w", args[0], errNotFound)
	}
	return *d.Run.HeadCheckpointID, nil
}

// branchRequest returns the body of the request, without the checkpoint.
func (a *app) branchRequest(f branchFlags) (map[string]any, error) {
	body := map[string]any{}
	put := func(name string, value any, given bool) {
		if given {
			body[name] = value
		}
	}
	put("name", f.name, f.name != "")
	put("reason", f.reason, f.reason != "")
	put("force", true, f.force)
	put("dry_run", true, f.dryRun)
	put("reuse_effects", true, f.reuseEffects)
	var state []json.RawMessage
	if f.statePatch != "" {
		if err := a.readJSON("the patch of the state", f.statePatch, &state); err != nil {
			return nil, err
		}
	}
	for _, s := range f.set {
		pointer, value, ok := strings.Cut(s, "=")
		if !ok || !strings.HasPrefix(pointer, "/") {
			return nil, usagef("--set %q: give POINTER=JSON, such as /vars/retries=3", s)
		}
		if !json.Valid([]byte(value)) {
			return nil, usagef("--set %q: the value is not JSON; a text is written as %s", s, shellWord(pointer+`="`+strings.ReplaceAll(value, `"`, `\"`)+`"`))
		}
		op, err := encoded(map[string]any{"op": "add", "path": pointer, "value": json.RawMessage(value)})
		if err != nil {
			return nil, err
		}
		state = append(state, op)
	}
	put("state_patch", state, len(state) > 0)
	if f.planPatch != "" {
		var plan []json.RawMessage
		if err := a.readJSON("the patch of the plan", f.planPatch, &plan); err != nil {
			return nil, err
		}
		body["plan_patch"] = plan
	}
	files, err := editedFiles(f.files, f.deletes)
	if err != nil {
		return nil, err
	}
	put("files", files, len(files) > 0)
	var variants []map[string]json.RawMessage
	for _, file := range f.variants {
		variant := map[string]json.RawMessage{}
		if err := a.readJSON("the variant", file, &variant); err != nil {
			return nil, err
		}
		if variant["name"] == nil {
			name, err := encoded(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)))
			if err != nil {
				return nil, err
			}
			variant["name"] = name
		}
		variants = append(variants, variant)
	}
	put("variants", variants, len(variants) > 0)
	return body, nil
}

// readJSON reads a file, or standard input for -. What is read into a json.RawMessage goes
// out as it is written, so that the gateway sees, and names, every mistake in it.
func (a *app) readJSON(what, file string, v any) error {
	var raw []byte
	var err error
	if file == "-" {
		raw, err = io.ReadAll(a.in)
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return usagef("%s: %w", what, err)
	}
	raw = bytes.TrimPrefix(raw, []byte("\ufeff")) // a byte order mark, as some editors write
	if err := json.Unmarshal(raw, v); err != nil {
		form := "a list of operations"
		if _, ok := v.(*map[string]json.RawMessage); ok {
			form = "an object"
		}
		if other, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return usagef("%s: %s holds a JSON %s, not %s", what, file, other.Value, form)
		}
		return usagef("%s: %s does not hold %s in JSON: %w", what, file, form, err)
	}
	return nil
}

var artifactID = regexp.MustCompile(`^art_[0-9a-f]{32}$`)

func editedFiles(files, deletes []string) (list []map[string]any, err error) {
	for _, path := range deletes {
		if !utf8.ValidString(path) {
			return nil, usagef("--delete %q: the path is not UTF-8", path)
		}
		list = append(list, map[string]any{"path": path, "delete": true})
	}
	for _, f := range files {
		path, local, ok := strings.Cut(f, "=")
		if !ok {
			return nil, usagef("--file %q: give PATH=LOCAL", f)
		}
		if !utf8.ValidString(path) {
			return nil, usagef("--file %q: the path in the workspace is not UTF-8", f)
		}
		if artifactID.MatchString(local) {
			list = append(list, map[string]any{"path": path, "artifact_id": local})
			continue
		}
		content, err := os.ReadFile(local)
		if err != nil {
			return nil, usagef("--file %s: %w", path, err)
		}
		file := map[string]any{"path": path}
		if isText(content) {
			file["content"] = string(content)
		} else {
			file["content_base64"] = base64.StdEncoding.EncodeToString(content)
		}
		if info, err := os.Stat(local); err == nil && info.Mode()&0o100 != 0 {
			file["mode"] = "755"
		}
		list = append(list, file)
	}
	return list, nil
}

// isText reports whether a text in JSON can hold a content: the gateway takes no NUL in
// texts.
func isText(content []byte) bool { return utf8.Valid(content) && !bytes.Contains(content, []byte{0}) }

// encoded returns v in JSON, without escapes for HTML.
func encoded(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func (a *app) printBranchPreview(w io.Writer, p api.BranchPreview) {
	if len(p.Variants) > 0 {
		for i, v := range p.Variants {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s\n", clean(deref(v.Name)))
			a.printBranchPreview(w, v)
		}
		return
	}
	var rows [][]string
	for _, s := range p.Restored {
		rows = append(rows, []string{s.Name, s.Tool, "restored", "from " + s.RestoredFrom})
	}
	for _, g := range p.ReopenedGates {
		rows = append(rows, []string{g.Name, g.Tool, "judges again", ""})
	}
	for _, s := range p.Reruns {
		why := map[api.RerunReason]string{
			"not_reached": "had not succeeded there", "new": "is new", "definition_changed": "its definition changes",
			"inputs_changed": "its inputs change", "dependency_reruns": "after " + deref(s.Because),
		}[s.Why]
		rows = append(rows, []string{s.Name, s.Tool, "runs", why})
	}
	a.table(w, []string{"STEP", "TOOL", "BRANCH", "WHY"}, rows, "TOOL")
	for _, e := range p.EffectsDoneBefore {
		again := "may be done again"
		if e.Reused {
			again = "its result is used if the request is the same"
		}
		fmt.Fprintf(w, "done before: %s by %s at %s; %s\n", clean(e.Name), clean(e.Step), clock(&e.DoneAt), again)
	}
	e := p.Estimate
	fmt.Fprintf(w, "estimate: %s", count(e.Steps, "step"))
	if e.KnownSteps > 0 {
		fmt.Fprintf(w, "; %d of them took %s before", e.KnownSteps, span(time.Duration(e.RunMs)*time.Millisecond))
		if e.InputTokens+e.OutputTokens > 0 {
			fmt.Fprintf(w, ", %s", count(e.InputTokens+e.OutputTokens, "token"))
		}
		if e.CostUsd > 0 {
			fmt.Fprintf(w, ", $%.2f", e.CostUsd)
		}
	}
	fmt.Fprintln(w)
}
