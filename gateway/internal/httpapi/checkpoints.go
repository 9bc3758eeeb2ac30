package httpapi

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// maxObjects is the number of stored objects that the answer with a checkpoint names at
// the most.
const maxObjects = 200

// maxInline is the size of the largest file that is answered in full; a larger one is a
// redirect to storage.
const maxInline = 1 << 20

// listCheckpoints answers the checkpoints of a run, oldest first.
func (s *Server) listCheckpoints(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterNumber("checkpoints", 0)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	list, err := s.Store.Checkpoints(c.Request().Context(), p.Tenant, id, after, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "checkpoints", list, limit, func(ck run.Checkpoint) string { return strconv.FormatInt(ck.Seq, 10) })
	return answer(c, http.StatusOK, api.CheckpointPage{Items: convert(list, apiCheckpoint), NextCursor: next})
}

// checkpoint returns the checkpoint that the path names.
func (s *Server) checkpoint(c echo.Context, p *identity.Principal) (run.Checkpoint, error) {
	runID, err1 := pathID(c, run.RunID, "run_id")
	id, err2 := pathID(c, run.CheckpointID, "checkpoint_id")
	if err1 != nil || err2 != nil {
		return run.Checkpoint{}, fault.New(fault.NotFound, "not-found", "no such checkpoint")
	}
	return s.Store.Checkpoint(c.Request().Context(), p.Tenant, runID, id)
}

// workspace returns the stored tree of a checkpoint.
func (s *Server) workspace(p *identity.Principal, ck run.Checkpoint) (*tree.Tree, error) {
	root, err := tree.ParseDigest(ck.TreeDigest)
	if err != nil {
		return nil, fmt.Errorf("tree of checkpoint %s: %w", ck.ID, err)
	}
	return s.trees.Tree(p.Tenant, root), nil
}

// getCheckpoint answers a checkpoint with its manifest and signed URLs of the
// objects that hold its tree.
func (s *Server) getCheckpoint(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	ck, err := s.checkpoint(c, p)
	if err != nil {
		return err
	}
	objects, err := s.objects(c.Request().Context(), p, ck)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.CheckpointDetail{Checkpoint: apiCheckpoint(ck), Manifest: ck.Manifest, Objects: objects})
}

// objects returns the stored objects of a checkpoint's tree, maxObjects at the most.
func (s *Server) objects(ctx context.Context, p *identity.Principal, ck run.Checkpoint) ([]api.StoredObject, error) {
	keys, err := s.objectKeys(ctx, p, ck)
	if err != nil {
		return nil, err
	}
	expires := urlExpiry()
	objects, urls := make([]api.StoredObject, len(keys)), make([]string, len(keys))
	g, signing := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, k := range keys {
		g.Go(func() error {
			kind := api.StoredObjectKindBlob
			if k.pack {
				kind = api.StoredObjectKindPack
			}
			about, err := s.Blobs.Stat(signing, k.key)
			if err != nil {
				return err
			}
			urls[i], err = s.Blobs.SignedURL(signing, k.key, hex.EncodeToString(k.digest[:]), blob.MaxSignedTTL)
			objects[i] = api.StoredObject{Kind: kind, Sha256: hex.EncodeToString(k.digest[:]), SizeBytes: about.Size, URL: urls[i], ExpiresAt: expires}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return objects, s.auditURLs(ctx, p, run.CheckpointID.Format(ck.ID), http.MethodGet, expires, urls...)
}

type objectKey struct {
	key    string
	digest tree.Digest
	pack   bool
}

// objectKeys walks the tree and returns the keys of its content, looked up in batches.
func (s *Server) objectKeys(ctx context.Context, p *identity.Principal, ck run.Checkpoint) (keys []objectKey, err error) {
	t, err := s.workspace(p, ck)
	if err != nil {
		return nil, err
	}
	root, err := t.Lookup(ctx, "")
	if err != nil {
		return nil, err
	}
	const atOnce = 1000
	wanted := []tree.Digest{root.Digest}
	flush := func() error {
		found, err := s.trees.Locator.LocateBlobs(ctx, p.Tenant, wanted)
		for _, d := range wanted {
			at, ok := found[d]
			k := objectKey{key: at.Key(p.Tenant, d), digest: d}
			if at.Pack != nil {
				k.digest, k.pack = *at.Pack, true
			}
			if ok && !at.Purged && len(keys) < maxObjects && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
		}
		wanted = wanted[:0]
		return err
	}
	err = t.Walk(ctx, "", "", func(_ string, e tree.Entry) error {
		if tree.NeedsObject(e.Digest) {
			wanted = append(wanted, e.Digest)
		}
		if len(wanted) < atOnce {
			return nil
		}
		if err := flush(); err != nil {
			return err
		}
		if len(keys) == maxObjects {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return keys, flush()
}

// listCheckpointFiles answers one folder of a checkpoint's workspace, by name.
func (s *Server) listCheckpointFiles(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit := q.limit(200)
	dir, _ := q.text("path")
	after, _ := q.place("files")
	if err := q.err(); err != nil {
		return err
	}
	ck, err := s.checkpoint(c, p)
	if err != nil {
		return err
	}
	t, err := s.workspace(p, ck)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	dir = strings.TrimSuffix(dir, "/")
	folder, err := t.Lookup(ctx, dir)
	if err != nil {
		return err
	}
	if folder.Mode != tree.Directory {
		return fault.New(fault.NotFound, "not-found", "%q is not a folder", dir)
	}
	entries, err := t.List(ctx, dir)
	if err != nil {
		return err
	}
	from, found := slices.BinarySearchFunc(entries, after, func(e tree.Entry, name string) int { return strings.Compare(e.Name, name) })
	if found {
		from++
	}
	entries = entries[from:min(len(entries), from+limit+1)]
	entries, next := page(c, "files", entries, limit, func(e tree.Entry) string { return e.Name })
	return answer(c, http.StatusOK, api.FilePage{
		Items:      convert(entries, func(e tree.Entry) api.File { return apiFile(dir, e) }),
		NextCursor: next,
	})
}

func apiFile(dir string, e tree.Entry) api.File {
	f := api.File{Name: e.Name, Path: path.Join(dir, e.Name), Mode: api.FileMode(e.Mode.String()), Digest: e.Digest.String()}
	if e.Mode != tree.Directory {
		f.SizeBytes = &e.Size
	}
	return f
}

// getCheckpointFile answers the bytes of one file, or where they are if there are
// many.
func (s *Server) getCheckpointFile(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	name, given := q.text("path")
	if !given || name == "" {
		q.bad("path", "is required")
	}
	if err := q.err(); err != nil {
		return err
	}
	ck, err := s.checkpoint(c, p)
	if err != nil {
		return err
	}
	t, err := s.workspace(p, ck)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	e, err := t.Lookup(ctx, name)
	if err != nil {
		return err
	}
	if e.Size > maxInline && e.Mode != tree.Directory {
		key, err := s.trees.Key(ctx, p.Tenant, e.Digest)
		if err != nil {
			return err
		}
		url, _, err := s.signedURL(ctx, p, run.CheckpointID.Format(ck.ID), key, path.Base(name))
		if err != nil {
			return err
		}
		return seeOther(c, url)
	}
	r, e, err := t.Open(ctx, name)
	if err != nil {
		return err
	}
	defer r.Close()
	// Read to its end, where it is verified, before a byte of it is answered.
	var content bytes.Buffer
	if _, err := io.Copy(&content, r); err != nil {
		return err
	}
	c.Response().Header().Set("ETag", `"`+e.Digest.String()+`"`)
	c.Response().Header().Set("Content-Disposition", "attachment")
	return c.Blob(http.StatusOK, echo.MIMEOctetStream, content.Bytes())
}

func apiCheckpoint(ck run.Checkpoint) api.Checkpoint {
	out := api.Checkpoint{
		ID: run.CheckpointID.Format(ck.ID), RunID: run.RunID.Format(ck.RunID), Seq: ck.Seq, Kind: api.CheckpointKind(ck.Kind), Fence: ck.Fence,
		Digest: ck.Digest, StateDigest: ck.StateDigest, TreeDigest: ck.TreeDigest, Parents: convert(ck.Parents, run.CheckpointID.Format),
		BytesNew: ck.BytesNew, Label: ptr(ck.Label), Hold: ck.Hold, CreatedAt: ck.CreatedAt.UTC(),
	}
	if ck.StepID != nil {
		out.StepID = ptr(run.StepID.Format(*ck.StepID))
	}
	return out
}
