package system_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/host/hosttest"
)

// merging is a merge of two runs that a test resolves and purges.
type merging struct {
	*hosttest.Bundle
	id     uuid.UUID
	target run.Run
}

// sides makes two runs that go on from one, by scripts, and merges them.
func sides(t *testing.T, first, ours, theirs string) merging {
	t.Helper()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	base := headOf(t, b.Until(t, b.Create(t, hosttest.Script("a", first)).ID, run.Succeeded))
	target, source := fork(t, b, base, hosttest.Script("ours", ours)), fork(t, b, base, hosttest.Script("theirs", theirs))
	b.Until(t, target.ID, run.Succeeded)
	b.Until(t, source.ID, run.Succeeded)
	return merging{b, startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID}).ID, target}
}

func (m merging) merge(t *testing.T) run.Merge {
	t.Helper()
	got, err := m.DB.Merge(m.Ctx, m.TenantID, m.id)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// computed waits until nothing of the merge is being computed, after a purge has perhaps
// cancelled what was under way.
func (m merging) computed(t *testing.T) run.Merge {
	t.Helper()
	if _, err := m.DB.ComputeMerge(m.Ctx, m.TenantID, m.id, "tester"); err != nil {
		t.Fatalf("ComputeMerge() = %v", err)
	}
	return computed(t, m.Bundle, m.id)
}

// open returns the paths of the conflicts that are to be decided, each with why it is again.
func (m merging) open(t *testing.T) (list []string) {
	t.Helper()
	conflicts, err := m.DB.MergeConflicts(m.Ctx, m.TenantID, m.id, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conflicts {
		if c.Resolution == nil {
			list = append(list, strings.TrimSpace(c.At+" "+deref(c.Reason)))
		}
	}
	return list
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (m merging) resolve(t *testing.T, list ...run.MergeResolution) run.Merge {
	t.Helper()
	got, err := m.DB.ResolveMerge(m.Ctx, m.TenantID, m.id, list, nil, "tester")
	if err != nil {
		t.Fatalf("ResolveMerge() = %v", err)
	}
	return got
}

func taking(path string, take run.Take) run.MergeResolution {
	return run.MergeResolution{Unit: run.PathUnit, At: path, Take: &take}
}

func giving(path, content string) run.MergeResolution {
	r := taking(path, run.TakeValue)
	r.Value = &content
	return r
}

// artifact stores an artifact and returns the decision that takes it.
func (m merging) artifact(t *testing.T, path, content string) run.MergeResolution {
	t.Helper()
	r := taking(path, run.TakeArtifact)
	id := run.NewID()
	r.ArtifactID = &id
	sum := tree.Sum([]byte(content))
	key := blob.CopyKey(m.TenantID, sum, blob.NewCopy())
	if err := m.Blobs.Put(m.Ctx, key, strings.NewReader(content), int64(len(content)), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"INSERT INTO nofx.object (tenant_id, key, sha256, bytes, kind) SELECT $1, $3, $4, $5, 'blob' WHERE $2::uuid IS NOT NULL",
		"INSERT INTO nofx.artifact (tenant_id, id, name, key, media_type, size_bytes, sha256) VALUES ($1, $2, 'x', $3, 'text/plain', $5, $4)",
	} {
		if _, err := m.Admin.Exec(m.Ctx, sql, m.TenantID, id, key, sum[:], len(content)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// refused fails the test unless a commit is refused because of a purge, and leaves the merge
// to be decided again.
func (m merging) refused(t *testing.T, what string) {
	t.Helper()
	_, _, _, err := m.DB.CommitMerge(m.Ctx, m.TenantID, m.id, false, postgres.Verb{Reason: "tested"}, "tester")
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Conflict || !strings.Contains(e.Detail, "1 conflict of the merge is not resolved") || !strings.Contains(e.Detail, "purged") {
		t.Errorf("%s: CommitMerge() = %v, want that one conflict is not resolved, since content was purged", what, err)
	}
}

const reopened = " content that the decision was about was purged by an administrator"

// A decision whose content is purged before the commit is taken back, whatever it took, and
// whether its result was stored already. All others stay, and the merge goes on with another.
func TestPurgeTakesDecisionsBack(t *testing.T) {
	t.Parallel()
	// Each text has a line of its own, so that no two files have the same content.
	var script [3]strings.Builder
	paths := []string{"both-base", "both-ours", "both-theirs", "ours", "ours-base", "theirs", "base", "value", "artifact", "stays"}
	for i, word := range []string{"one", "OURS", "THEIRS"} {
		for _, p := range paths {
			fmt.Fprintf(&script[i], "printf '%s of %s\\n' > %s; ", word, p, p)
		}
		fmt.Fprintf(&script[i], "printf '%s\\0binary' > binary; printf '%s\\0kept' > kept; ", word, word)
	}
	script[0].WriteString("echo deleted > deleted; echo deleted > changed")
	script[1].WriteString("rm deleted; echo 'OURS of changed' > changed")
	script[2].WriteString("echo 'THEIRS of deleted' > deleted; rm changed")
	m := sides(t, script[0].String(), script[1].String(), script[2].String())
	decided := []run.MergeResolution{
		taking("both-base", run.TakeBoth), taking("both-ours", run.TakeBoth), taking("both-theirs", run.TakeBoth), taking("stays", run.TakeBoth),
		taking("ours", run.TakeOurs), taking("ours-base", run.TakeOurs), taking("theirs", run.TakeTheirs), taking("base", run.TakeBase),
		taking("binary", run.TakeTheirs), taking("kept", run.TakeTheirs), taking("deleted", run.TakeTheirs), taking("changed", run.TakeTheirs),
		giving("value", "a value\n"), m.artifact(t, "artifact", "an artifact\n"),
	}
	m.resolve(t, decided...)
	for i, tt := range []struct{ content, at string }{
		{"one of both-base\n", "both-base"},
		{"OURS of both-ours\n", "both-ours"},
		{"THEIRS of both-theirs\n", "both-theirs"},
		{"OURS of ours\n", "ours"},
		{"one of ours-base\n", "ours-base"}, // the lines of ours are merged with what else was changed
		{"THEIRS of theirs\n", "theirs"},
		{"one of base\n", "base"},
		{"THEIRS\x00binary", "binary"},
		{"OURS\x00kept", ""}, // theirs is taken as a whole
		{"THEIRS of deleted\n", "deleted"},
		{"OURS of changed\n", ""},
		{"THEIRS of value\n", ""},
		{"a value\n", "value"}, // which the result has that is stored
		{"an artifact\n", "artifact"},
	} {
		if prepared := i%2 == 0; prepared {
			if got := m.computed(t); !got.Prepared() {
				t.Fatalf("merge = %s (%s), want it ready with a result", got.State, got.Reason)
			}
		}
		d := tree.Sum([]byte(tt.content))
		if _, err := m.DB.PurgeBlob(m.Ctx, m.TenantID, d, "leaked"); err != nil {
			t.Fatalf("PurgeBlob(%q) = %v", tt.content, err)
		}
		// From the tombstone on, and once the bytes are deleted.
		for _, when := range []string{"purged", "erased"} {
			what := fmt.Sprintf("%q %s", tt.content, when)
			if tt.at == "" {
				if got := m.merge(t); got.State != run.Ready {
					t.Errorf("%s: merge = %s (%s), open are %q, want it ready still", what, got.State, got.Reason, m.open(t))
				}
			} else {
				if got := m.merge(t); got.State != run.Conflicted || got.Prepared() || got.Unresolved != 1 {
					t.Errorf("%s: merge = %s with %d open (%s), want %s to decide", what, got.State, got.Unresolved, got.Reason, tt.at)
				}
				if got, want := m.open(t), []string{tt.at + reopened}; !slices.Equal(got, want) {
					t.Errorf("%s: open = %q, want %q", what, got, want)
				}
				m.refused(t, what)
			}
			if when == "purged" {
				erase(t, m.Bundle, d)
			}
		}
		if tt.at != "" {
			m.resolve(t, giving(tt.at, "decided again of "+tt.at+"\n"))
		}
	}
	if got := m.merge(t); got.State != run.Ready || got.Reason != "" {
		t.Errorf("merge = %s (%s), want it ready", got.State, got.Reason)
	}
	commit(t, m.Bundle, m.computed(t), false)
	d, err := m.DB.RunDetail(m.Ctx, m.TenantID, m.target.ID)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"both-base": "decided again of both-base\n", "artifact": "decided again of artifact\n", "binary": "decided again of binary\n",
		"stays": "OURS of stays\nTHEIRS of stays\n", "kept": "THEIRS\x00kept",
	} {
		if got := m.File(t, d, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	sound(t, m.Bundle)
}

// A side whose content was purged can still be taken by who sees that, and stays taken.
func TestTakePurgedSide(t *testing.T) {
	t.Parallel()
	m := sides(t, "echo one > f", "echo OURS > f", "echo THEIRS > f")
	d := tree.Sum([]byte("OURS\n"))
	if _, err := m.DB.PurgeBlob(m.Ctx, m.TenantID, d, "leaked"); err != nil {
		t.Fatal(err)
	}
	list, err := m.DB.MergeConflicts(m.Ctx, m.TenantID, m.id, 0, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("MergeConflicts() = %d, %v, want one", len(list), err)
	}
	if c := list[0]; c.Ours.Kind != run.SideRedacted || c.Ours.Excerpt+c.Theirs.Excerpt != "" || c.Line != nil || slices.Contains(c.Takes, run.TakeBoth) || c.Reason != nil {
		t.Errorf("conflict = %+v, want one of whole files whose ours is redacted, and which nobody had decided", c)
	}
	_, err = m.DB.ResolveMerge(m.Ctx, m.TenantID, m.id, []run.MergeResolution{taking("f", run.TakeBoth)}, nil, "tester")
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid {
		t.Errorf("ResolveMerge(both) = %v, want invalid", err)
	}
	m.resolve(t, taking("f", run.TakeOurs))
	erase(t, m.Bundle, d)
	commit(t, m.Bundle, m.computed(t), false)
	sound(t, m.Bundle)
}

// Content that was purged is taken by no decision.
func TestResolveWithPurgedContent(t *testing.T) {
	t.Parallel()
	m := sides(t, "echo one > f; echo one > g", "echo OURS > f; echo OURS > g; echo leak > leak", "echo THEIRS > f; echo THEIRS > g")
	artifact := m.artifact(t, "g", "leak\n")
	purge(t, m.Bundle, "leak\n")
	for member, r := range map[string]run.MergeResolution{"value": giving("f", "leak\n"), "artifact_id": artifact} {
		_, err := m.DB.ResolveMerge(m.Ctx, m.TenantID, m.id, []run.MergeResolution{r}, nil, "tester")
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Fields[0].Pointer != "/resolutions/0/"+member {
			t.Errorf("ResolveMerge(%s of purged content) = %v, want invalid there", member, err)
		}
	}
	if got := m.open(t); !slices.Equal(got, []string{"f", "g"}) {
		t.Errorf("open = %q, want both", got)
	}
}

// What the computation of a result finds purged does not end the merge: texts that both
// sides changed are conflicts of whole files then, also where their lines did not meet.
func TestResultOfPurgedTexts(t *testing.T) {
	t.Parallel()
	const text = "printf '1\\n2\\n3\\n4\\n5\\n%s\\n' > %[1]s; "
	var scripts [3]string
	for _, p := range []string{"clean", "f", "g"} {
		scripts[0] += fmt.Sprintf(text, p)
	}
	scripts[1] = "sed -i s/1/one/ clean f; echo OURS >> f; echo OURS > g"
	scripts[2] = "sed -i s/5/five/ clean; echo THEIRS >> f; echo THEIRS > g"
	m := sides(t, scripts[0], scripts[1], scripts[2])
	if got := m.open(t); !slices.Equal(got, []string{"f", "g"}) {
		t.Fatalf("open = %q, want f and g", got)
	}
	// As when the conflicts were found before the purge, and are recorded after it.
	for _, p := range []string{"clean", "f"} {
		d := tree.Sum([]byte("1\n2\n3\n4\n5\n" + p + "\n"))
		tag, err := m.Admin.Exec(m.Ctx, "UPDATE nofx.blob SET state = 'tombstone', purged_at = now(), purged_by = 'x', reason = 'x' WHERE sha256 = $1", d[:])
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("purge of %s: %v, %v", p, tag, err)
		}
	}
	m.resolve(t, taking("f", run.TakeOurs), taking("g", run.TakeBoth))
	got := m.computed(t)
	if got.State != run.Conflicted || got.Conflicts != 3 || got.Unresolved != 2 || got.Prepared() || got.FailureCode != "" {
		t.Fatalf("merge = %s with %d of %d open (%s), want two conflicts of whole files", got.State, got.Unresolved, got.Conflicts, got.Reason)
	}
	const changed = " the sides of the conflict have changed since the decision"
	if got, want := m.open(t), []string{"clean", "f" + changed}; !slices.Equal(got, want) {
		t.Errorf("open = %q, want %q", got, want)
	}
	m.resolve(t, taking("clean", run.TakeTheirs), taking("f", run.TakeOurs))
	commit(t, m.Bundle, m.computed(t), false)
	d, err := m.DB.RunDetail(m.Ctx, m.TenantID, m.target.ID)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"clean": "1\n2\n3\n4\nfive\nclean\n", "f": "one\n2\n3\n4\n5\nf\nOURS\n", "g": "OURS\nTHEIRS\n"} {
		if got := m.File(t, d, path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	sound(t, m.Bundle)
}

// A decision about values that a target has changed since is none about the new ones: the
// merge has no result before it is made again.
func TestDecisionsOfATargetThatMoves(t *testing.T) {
	t.Parallel()
	b := hosttest.Setup(t)
	b.Worker(t, serveAll)
	base := headOf(t, b.Until(t, b.Create(t, hosttest.Script("a", "echo 1 | tee x > y")).ID, run.Succeeded))
	target := fork(t, b, base, hosttest.Script("one", "echo 2 | tee x > y"), hosttest.Step("ask", "manual:ask", run.ManualInputs{Message: "go?"}, "one"), hosttest.Script("two", "echo 4 > x", "ask"))
	source := fork(t, b, base, hosttest.Script("other", "echo 3 | tee x > y"))
	b.Until(t, source.ID, run.Succeeded)
	d := b.Until(t, target.ID, run.Waiting)
	m := merging{b, startMerge(t, b, postgres.NewMerge{TargetRunID: target.ID, SourceRunID: source.ID}).ID, target}
	m.resolve(t, taking("x", run.TakeOurs), taking("y", run.TakeTheirs))
	m.computed(t)
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[0].ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatal(err)
	}
	b.Until(t, target.ID, run.Succeeded)
	if _, answer, _, err := b.DB.CommitMerge(b.Ctx, b.TenantID, m.id, false, postgres.Verb{}, "tester"); err != nil || answer != postgres.MergeMoved {
		t.Fatalf("CommitMerge() = %s, %v, want that the target has moved", answer, err)
	}
	if got := m.computed(t); got.State != run.Conflicted || got.Unresolved != 1 || got.Prepared() {
		t.Errorf("merge = %s with %d open, prepared %t, want x to decide again", got.State, got.Unresolved, got.Prepared())
	}
	m.resolve(t, taking("x", run.TakeTheirs))
	commit(t, b, m.computed(t), false)
	if d, err := b.DB.RunDetail(b.Ctx, b.TenantID, target.ID); err != nil || b.File(t, d, "x")+b.File(t, d, "y") != "3\n3\n" {
		t.Errorf("x and y = %q, want theirs, as decided last", b.File(t, d, "x")+b.File(t, d, "y"))
	}
	sound(t, b)
}
