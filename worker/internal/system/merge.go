package system

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/merge"
	"nofx.dev/worker/internal/snapshot"
	"nofx.dev/worker/internal/tool"
)

// computeMerge finds the conflicts of a merge and, when all are decided, stores its result
// for the commit. A merge that has moved on since is left as it is. Why a merge cannot be
// computed is recorded, and is no failure of the step.
func computeMerge(ctx context.Context, cfg Config, c Call, in run.MergeInputs) (tool.Result, error) {
	id, err := run.MergeID.Parse(in.MergeID)
	if err != nil {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
	}
	w, err := cfg.DB.MergeWork(ctx, c.Claim.TenantID, id)
	if errors.Is(err, fault.NotFound) {
		return tool.Result{}, tool.Failuref(run.ClassInvalid, "%w", err)
	}
	var result postgres.MergeResult
	if err == nil {
		if w.Merge.Version != in.Version || w.Merge.Prepared() {
			fmt.Fprintln(c.Log, "the merge has moved on, or its result is there already")
			return tool.Result{}, nil
		}
		result, err = mergeRuns(ctx, cfg, c, w)
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && slices.Contains(mergeFailures, e.Code) {
		fmt.Fprintf(c.Log, "%s: %s\n", e.Code, e.Detail)
		result, err = postgres.MergeResult{Failure: e}, nil
	}
	if err != nil {
		return tool.Result{}, err
	}
	if err := c.Fresh(ctx); err != nil {
		return tool.Result{}, err
	}
	if err := cfg.DB.RecordMerge(ctx, c.Claim, id, in.Version, result); err != nil {
		return tool.Result{}, err
	}
	fmt.Fprintf(c.Log, "%s: %s; %s changed\n", result.Outcome, fault.Count(len(result.Conflicts), "conflict"),
		fault.Count(result.Preview.Added+result.Preview.Modified+result.Preview.Deleted, "file"))
	return tool.Result{}, nil
}

// mergeFailures are the codes of errors that no other attempt at a merge would be without.
var mergeFailures = []string{"too-many-conflicts", "no-common-base", "ambiguous-base", "workspace-conflict", "workspace-limit", "invalid-field"}

// mergeRuns computes a merge.
func mergeRuns(ctx context.Context, cfg Config, c Call, w postgres.MergeWork) (postgres.MergeResult, error) {
	result := postgres.MergeResult{BaseID: w.Base.ID}
	ours, theirs := idsOf(w.Ours), idsOf(w.Theirs)
	switch {
	case postgres.Contains(w.Shared, theirs):
		last := w.Ours[len(w.Ours)-1]
		result.Outcome, result.Tree, result.State, result.Preview = run.UpToDate, &last.TreeDigest, &last.StateDigest, run.MergePreview{Files: []run.MergeChange{}}
		return result, nil
	case postgres.Contains(w.Shared, ours):
		result.Outcome = run.FastForward
	}
	rules, extra, err := rulesOf(ctx, cfg, c, w)
	if err != nil {
		return result, err
	}
	open := 0
	decided := rules.Takes
	rules.Takes = func(conflict merge.Conflict) (merge.Take, bool) {
		take, ok := decided(conflict)
		if !ok {
			open++
			take.Side = merge.Ours
		}
		return take, true
	}
	maker := cfg.Checkpoints.For(checkpoint.Author{
		TenantID: c.Claim.TenantID, RunID: w.Target.ID, PlanDigest: w.Target.PlanDigest, Excludes: excludesOf(w.Target), Fresh: c.Fresh,
	})
	merged, err := maker.Merge(ctx, checkpoint.Merging{Base: w.Base, Ours: w.Ours, Theirs: w.Theirs, Rules: rules})
	if err != nil {
		return result, err
	}
	result.Preview = previewOf(merged)
	if result.Outcome == "" {
		result.Outcome = run.Clean
	}
	purged, err := purgedSides(ctx, cfg, c, merged.Conflicts)
	if err != nil {
		return result, err
	}
	for _, conflict := range merged.Conflicts {
		result.Outcome = run.InConflict
		result.Conflicts = append(result.Conflicts, conflictOf(conflict, w.Merge.Strategy, purged))
	}
	if open > 0 {
		return result, nil
	}
	if result.Checkpoints, err = merged.Store(ctx, maker, extra); err != nil {
		return result, err
	}
	last := result.Checkpoints[len(result.Checkpoints)-1]
	result.Tree, result.State = &last.TreeDigest, &last.StateDigest
	return result, nil
}

// rulesOf returns the rules of a merge, and what is stored of artifacts that it takes.
func rulesOf(ctx context.Context, cfg Config, c Call, w postgres.MergeWork) (merge.Rules, snapshot.Saved, error) {
	gates := map[string]bool{}
	var target run.Plan
	for _, r := range []run.Run{w.Source, w.Target} {
		target = run.Plan{}
		if err := json.Unmarshal(r.Plan, &target); err != nil {
			return merge.Rules{}, snapshot.Saved{}, fmt.Errorf("plan of run %s: %w", r.ID, err)
		}
		for _, s := range target.Steps {
			if t, ok := run.ToolOf(s.Tool); ok && t.Gate != "" {
				gates[s.Name] = true
			}
		}
	}
	decided := map[string]decision{}
	artifacts := map[uuid.UUID]merge.Take{} // thousands of conflicts may take the same
	var extra snapshot.Saved
	for _, r := range w.Decided {
		d := decision{text: slices.Contains(r.Takes, run.TakeBoth), stands: r.Resolution != nil}
		known := false
		if r.ArtifactID != nil {
			d.take, known = artifacts[*r.ArtifactID]
		}
		if d.stands && !known {
			var err error
			if d.take, err = takeOf(ctx, cfg, c, r, &extra); err != nil {
				return merge.Rules{}, extra, err
			}
			if r.ArtifactID != nil {
				artifacts[*r.ArtifactID] = d.take
			}
		}
		decided[string(r.Unit)+"\x00"+r.At+"\x00"+r.Kind] = d
	}
	return merge.Rules{
		Strict: w.Merge.Mode == run.StrictMode,
		Arrays: target.StateSchema.ArrayMerge,
		Gates: func(step string) bool {
			name, _, _ := strings.Cut(step, run.FreshGate)
			return gates[name]
		},
		Takes: func(c merge.Conflict) (merge.Take, bool) {
			if d, ok := decided[string(unitOf(c))+"\x00"+c.At()+"\x00"+string(c.Kind)]; ok {
				return d.take, d.stands && d.text == c.Text
			}
			return merge.Take{Side: merge.Side(w.Merge.Strategy)}, w.Merge.Strategy != run.ManualStrategy
		},
		Values: true,
	}, extra, nil
}

// decision is what was decided about a conflict. One about lines is none about whole files,
// which the sides are once a text of theirs was purged.
type decision struct {
	take   merge.Take
	stands bool
	text   bool
}

// takeOf returns a resolution as the merge reads it. An artifact's bytes are stored under
// their digest, if they are not yet.
func takeOf(ctx context.Context, cfg Config, c Call, r run.MergeConflict, extra *snapshot.Saved) (merge.Take, error) {
	switch take := *r.Resolution; take {
	case run.TakeValue:
		if r.Unit == run.PointerUnit {
			return merge.Take{Side: merge.Given, JSON: json.RawMessage(*r.Value)}, nil
		}
		return merge.Take{Side: merge.Given, Content: []byte(*r.Value)}, nil
	case run.TakeArtifact:
		a, err := cfg.DB.Artifact(ctx, c.Claim.TenantID, *r.ArtifactID)
		if err != nil {
			return merge.Take{}, err
		}
		sum := tree.Digest(a.SHA256)
		known, err := cfg.DB.KnownBlobs(ctx, c.Claim.TenantID, []tree.Digest{sum})
		if err != nil {
			return merge.Take{}, err
		}
		if !known[sum] && tree.NeedsObject(sum) {
			content, err := cfg.Blobs.Open(ctx, a.Key, 0, -1)
			if err != nil {
				return merge.Take{}, err
			}
			defer content.Close()
			b := tree.Blob{SHA256: sum, Location: tree.Location{Size: a.Size, Len: a.Size, Copy: blob.NewCopy()}}
			key := b.Key(c.Claim.TenantID, sum)
			if err := cfg.Blobs.Put(ctx, key, blob.Verify(content, sum, a.Size), a.Size, blob.PutOptions{SHA256: (*[32]byte)(&sum)}); err != nil {
				return merge.Take{}, err
			}
			extra.Objects = append(extra.Objects, tree.Object{Key: key, SHA256: sum, Bytes: a.Size, Kind: "blob"})
			extra.Blobs = append(extra.Blobs, b)
		}
		return merge.Take{Side: merge.Given, Entry: &tree.Entry{Digest: sum, Size: a.Size}}, nil
	default:
		return merge.Take{Side: merge.Side(take)}, nil
	}
}

func unitOf(c merge.Conflict) run.MergeUnit {
	if c.Path == "" {
		return run.PointerUnit
	}
	return run.PathUnit
}

// purgedSides returns which contents of files in conflict were purged.
func purgedSides(ctx context.Context, cfg Config, c Call, conflicts []merge.Conflict) (map[tree.Digest]bool, error) {
	var digests []tree.Digest
	for _, conflict := range conflicts {
		for _, v := range []*merge.Value{conflict.Base, conflict.Ours, conflict.Theirs} {
			if v != nil && v.Entry != nil {
				digests = append(digests, v.Entry.Digest)
			}
		}
	}
	if len(digests) == 0 {
		return nil, nil
	}
	return cfg.DB.PurgedBlobs(ctx, c.Claim.TenantID, digests)
}

// conflictOf returns a conflict as it is recorded, resolved by the strategy unless that is
// manual.
func conflictOf(c merge.Conflict, strategy run.MergeStrategy, purged map[tree.Digest]bool) run.MergeConflict {
	out := run.MergeConflict{
		Unit: unitOf(c), At: c.At(), Kind: string(c.Kind), Takes: []run.Take{run.TakeOurs, run.TakeTheirs, run.TakeBase, run.TakeValue},
		Base: sideOf(c.Base, purged), Ours: sideOf(c.Ours, purged), Theirs: sideOf(c.Theirs, purged),
	}
	if c.Path != "" {
		out.Takes = append(out.Takes, run.TakeArtifact)
	}
	if c.Text {
		out.Takes = append(out.Takes, run.TakeBoth)
	}
	if c.Line > 0 {
		out.Line = &c.Line
	}
	if c.Renamed != "" {
		out.RenamedTo = &c.Renamed
	}
	if strategy != run.ManualStrategy {
		take := run.Take(strategy)
		out.Resolution = &take
	}
	return out
}

func sideOf(v *merge.Value, purged map[tree.Digest]bool) *run.MergeSide {
	switch {
	case v == nil:
		return nil
	case v.Entry == nil:
		side := &run.MergeSide{}
		size := int64(len(v.JSON))
		if side.Size = &size; size <= run.MaxMergeValue {
			side.Value = v.JSON
		}
		return side
	}
	side := &run.MergeSide{SHA256: hex.EncodeToString(v.Entry.Digest[:]), Size: &v.Entry.Size, Mode: v.Entry.Mode.String()}
	if purged[v.Entry.Digest] {
		side.Kind = run.SideRedacted
	} else {
		side.Excerpt = strings.ReplaceAll(v.Excerpt, "\x00", "")
	}
	return side
}

func previewOf(m *checkpoint.Merged) run.MergePreview {
	p := run.MergePreview{Files: []run.MergeChange{}, State: m.State, Truncated: len(m.Changes) > run.MaxMergeFiles}
	for _, c := range m.Changes {
		status, n := "modified", &p.Modified
		switch {
		case c.From == nil:
			status, n = "added", &p.Added
		case c.To == nil:
			status, n = "deleted", &p.Deleted
		}
		*n++
		if len(p.Files) < run.MaxMergeFiles {
			p.Files = append(p.Files, run.MergeChange{Path: c.Path, Status: status})
		}
	}
	return p
}

func idsOf(list []postgres.Parent) []uuid.UUID {
	ids := make([]uuid.UUID, len(list))
	for i, p := range list {
		ids[i] = p.ID
	}
	return ids
}

func excludesOf(r run.Run) []string {
	var p run.Plan
	if json.Unmarshal(r.Plan, &p) != nil || p.Workspace == nil {
		return nil
	}
	return p.Workspace.Excludes
}
