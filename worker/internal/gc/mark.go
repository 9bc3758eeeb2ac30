package gc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/tree"
	"nofx.dev/worker/internal/checkpoint"
)

// How much is in memory at once: checkpoints of a page, digests of a question to the
// database, and directories that are read together.
const (
	rootsAtOnce  = 200
	digestsAsked = 5000
	nodesAtOnce  = 100
)

// mark marks all that the checkpoints of the tenant name.
func (c *collector) mark(ctx context.Context) error {
	w := &walk{collector: c}
	for after := uuid.Nil; ; {
		roots, err := c.DB.Roots(ctx, c.Claim.TenantID, after, rootsAtOnce)
		if err != nil {
			return err
		}
		if len(roots) == 0 {
			break
		}
		for _, r := range roots {
			w.dirs = append(w.dirs, r.TreeDigest)
			if err := w.state(ctx, r); err != nil {
				return err
			}
		}
		if err := w.run(ctx); err != nil {
			return err
		}
		c.report.Checkpoints += int64(len(roots))
		after = roots[len(roots)-1].ID
		c.say("walked %d checkpoints, which name %d contents", c.report.Checkpoints, c.report.Named.N)
	}
	return w.flush(ctx)
}

// walk goes through trees: dirs are directories to look at, files is content that holds
// nothing else.
type walk struct {
	*collector
	dirs, files []tree.Digest
}

// run goes on until no directory is left. It takes the last ones first, so that few wait.
func (w *walk) run(ctx context.Context) error {
	for len(w.dirs) > 0 {
		n := max(0, len(w.dirs)-nodesAtOnce)
		some := w.dirs[n:]
		first, err := w.touch(ctx, some)
		if err != nil {
			return err
		}
		w.dirs = w.dirs[:n]
		if err := w.read(ctx, first); err != nil {
			return err
		}
	}
	return nil
}

// read adds what directories hold. One that cannot be read holds nothing that anybody could
// restore; a later checkpoint that has the same directory stores again what is missing.
func (w *walk) read(ctx context.Context, dirs []tree.Digest) error {
	if len(dirs) == 0 {
		return nil
	}
	nodes, err := w.trees.Nodes(ctx, w.Claim.TenantID, dirs)
	if _, lost := blob.Lost(err); lost && len(dirs) > 1 {
		for _, d := range dirs {
			if err := w.read(ctx, []tree.Digest{d}); err != nil {
				return err
			}
		}
		return nil
	} else if lost {
		w.lost(dirs[0], err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, entries := range nodes {
		for _, e := range entries {
			if e.Mode == tree.Directory {
				w.dirs = append(w.dirs, e.Digest)
				continue
			}
			if err := w.file(ctx, e.Digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// file marks content that holds nothing else, together with others.
func (w *walk) file(ctx context.Context, d tree.Digest) error {
	if w.files = append(w.files, d); len(w.files) < digestsAsked {
		return nil
	}
	return w.flush(ctx)
}

func (w *walk) flush(ctx context.Context) error {
	_, err := w.touch(ctx, w.files)
	w.files = w.files[:0]
	return err
}

// state marks the state document of a checkpoint, and the outputs that it names.
func (w *walk) state(ctx context.Context, r postgres.Root) error {
	doc := r.State
	if doc == nil {
		first, err := w.touch(ctx, []tree.Digest{r.StateDigest})
		if err != nil || len(first) == 0 {
			return err
		}
		if doc, err = w.content(ctx, r.StateDigest); err != nil || doc == nil {
			return err
		}
	}
	if !bytes.Contains(doc, []byte(`"outputs_ref"`)) {
		return nil
	}
	st, err := checkpoint.DecodeState(doc)
	if err != nil {
		return fmt.Errorf("checkpoint %s: %w", r.ID, err)
	}
	for _, s := range st.Steps {
		if s.OutputsRef != nil {
			if err := w.file(ctx, *s.OutputsRef); err != nil {
				return err
			}
		}
	}
	return nil
}

// content returns stored content as a whole, or nil where it is lost.
func (w *walk) content(ctx context.Context, d tree.Digest) ([]byte, error) {
	r, err := w.trees.Open(ctx, w.Claim.TenantID, d)
	var b []byte
	if err == nil {
		b, err = io.ReadAll(r)
		err = errors.Join(err, r.Close())
	}
	if _, lost := blob.Lost(err); lost {
		w.lost(d, err)
		return nil, nil
	}
	return b, err
}

// touch marks digests, and returns those that were not marked before.
func (w *walk) touch(ctx context.Context, digests []tree.Digest) (first []tree.Digest, err error) {
	asked := make(map[tree.Digest]bool, len(digests))
	var ask []tree.Digest
	for _, d := range digests {
		if tree.NeedsObject(d) && !asked[d] {
			asked[d] = true
			ask = append(ask, d)
		}
	}
	if len(ask) == 0 {
		return nil, nil
	}
	marked, err := w.DB.MarkBlobs(ctx, w.col, ask)
	if err != nil {
		return nil, err
	}
	for _, m := range marked {
		delete(asked, m.SHA256)
		if m.First {
			w.report.Named.add(m.Bytes)
			first = append(first, m.SHA256)
		}
	}
	for d := range asked {
		w.lost(d, errors.New("no blob"))
	}
	return first, nil
}

// lost counts content that a checkpoint names and that cannot be read.
func (w *walk) lost(d tree.Digest, err error) {
	if blob.IsPurged(err) {
		return
	}
	w.report.Lost++
	w.report.add(Item{Kind: "content", ID: d.String(), What: "lost"})
	w.say("%s, which a checkpoint names, is lost: %v", d, err)
}
