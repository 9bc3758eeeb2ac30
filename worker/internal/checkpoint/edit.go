package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/merge"
	"nofx.dev/worker/internal/snapshot"
)

// patchInline is the size in bytes up to which a manifest has the patch itself.
const patchInline = 16 << 10

// Edit makes the checkpoint of a branch's edits of other checkpoints together. Where files
// are edited that happens in dir, which w is the workspace of; artifact opens those that
// the edits name. Conflicts mean that the checkpoints do not fit together. Its row is the
// caller's to insert.
func (m *Maker) Edit(ctx context.Context, bases []postgres.Parent, e run.BranchEdit, w *snapshot.Workspace, dir string,
	artifact func(ctx context.Context, id string) (io.ReadCloser, int64, error)) (*postgres.Checkpoint, []merge.Conflict, error) {
	began := time.Now()
	from, conflicts, err := m.together(ctx, bases)
	if err != nil || len(conflicts) > 0 {
		return nil, conflicts, err
	}
	c := Content{Kind: run.EditCheckpoint, Parents: bases, Tree: from.Tree, Edit: &EditRef{By: e.By, Reason: e.Reason},
		Saved: snapshot.Saved{Blobs: from.Checkpoint.Blobs, Objects: from.Checkpoint.Objects, Bytes: from.Checkpoint.BytesNew}}
	if c.State, err = edited(from.State, e); err != nil {
		return nil, nil, err
	}
	if len(e.StatePatch) > 0 {
		sum := tree.Sum(e.StatePatch)
		c.Edit.PatchDigest = &sum
		if len(e.StatePatch) <= patchInline {
			c.Edit.StatePatch = e.StatePatch
		}
	}
	if len(e.Files) > 0 {
		if err := w.Restore(ctx, from.Tree); err != nil {
			return nil, nil, err
		}
		if c.Edit.Files, err = editFiles(ctx, dir, e.Files, artifact); err != nil {
			return nil, nil, err
		}
		scan, err := w.Scan(ctx, nil) // an edited file is kept although steps may not keep it
		if err != nil {
			return nil, nil, err
		}
		if err := m.fresh(ctx); err != nil {
			return nil, nil, err
		}
		saved, err := w.Save(ctx, scan)
		if err != nil {
			return nil, nil, err
		}
		c.Tree = scan.Tree
		c.Saved.Blobs, c.Saved.Objects = append(c.Saved.Blobs, saved.Blobs...), append(c.Saved.Objects, saved.Objects...)
		c.Saved.Bytes += saved.Bytes
	}
	ck, err := m.Make(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	m.metrics.CheckpointWrite.Observe(ctx, time.Since(began).Seconds(), string(c.Kind))
	m.metrics.CheckpointBytes.Observe(ctx, float64(ck.BytesNew), string(c.Kind))
	return ck, nil, nil
}

// together returns what checkpoints come to together; none of them, to an empty workspace.
func (m *Maker) together(ctx context.Context, bases []postgres.Parent) (*Start, []merge.Conflict, error) {
	if len(bases) > 0 {
		return m.Join(ctx, run.EditCheckpoint, bases)
	}
	from, err := m.Pre(ctx, nil)
	return from, nil, err
}

// edited returns a state with the variables and outputs of an edit. Outputs that somebody
// gave a step are there, whatever it waited for.
func edited(s State, e run.BranchEdit) (State, error) {
	if len(e.Vars) > 0 {
		vars, err := DecodeState(slices.Concat([]byte(`{"vars":`), e.Vars, []byte(`}`)))
		if err != nil {
			return State{}, fault.New(fault.Invalid, "invalid-field", "the edited variables are no object").Because(err)
		}
		s.Vars = vars.Vars
	}
	for _, name := range slices.Sorted(maps.Keys(e.Outputs)) {
		s = s.With(name, StepState{State: string(run.Succeeded), Outputs: e.Outputs[name], Attempt: s.Steps[name].Attempt})
	}
	return s, nil
}

// editFiles deletes and then writes files in a workspace, and returns what is where now.
func editFiles(ctx context.Context, dir string, files []run.EditFile, artifact func(context.Context, string) (io.ReadCloser, int64, error)) ([]EditedFile, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("edit files: %w", err)
	}
	defer root.Close()
	var done []EditedFile
	for _, f := range files {
		if f.Delete {
			if err := root.RemoveAll(f.Path); err != nil {
				return nil, misplaced(f, err)
			}
			done = append(done, EditedFile{Path: f.Path})
		}
	}
	for _, f := range files {
		if f.Delete {
			continue
		}
		d, err := editFile(ctx, root, f, artifact)
		if err != nil {
			return nil, err
		}
		done = append(done, EditedFile{Path: f.Path, Digest: &d})
	}
	return done, nil
}

func editFile(ctx context.Context, root *os.Root, f run.EditFile, artifact func(context.Context, string) (io.ReadCloser, int64, error)) (d tree.Digest, err error) {
	var r io.ReadCloser
	if f.ArtifactID != "" {
		r, _, err = artifact(ctx, f.ArtifactID)
	} else {
		var content []byte
		content, err = f.Write().Bytes()
		r = io.NopCloser(bytes.NewReader(content))
	}
	if err != nil {
		return d, fmt.Errorf("content of %s: %w", f.Path, err)
	}
	defer r.Close()
	if err := root.MkdirAll(path.Dir(f.Path), 0o755); err != nil {
		return d, misplaced(f, err)
	}
	if err := root.Remove(f.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return d, misplaced(f, err)
	}
	mode := os.FileMode(0o644)
	if f.Mode == "755" {
		mode = 0o755
	}
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d, misplaced(f, err)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), r)
	if err == nil {
		err = out.Chmod(mode) // whatever the umask
	}
	copy(d[:], sum.Sum(nil))
	return d, errors.Join(err, out.Close())
}

// misplaced returns the error for a path at which nothing can be written.
func misplaced(f run.EditFile, err error) error {
	return fault.New(fault.Invalid, "invalid-field", "%s cannot be edited: something else is in its place", f.Path).Because(err)
}
