package httpapi

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// maxInlineDiff is the size of the largest diff that is answered in full; of a larger one
// the answer is where it is.
const maxInlineDiff = 256 << 10

// diffCheckpoint answers what lies between two checkpoints. A worker computes it, once for
// all who ask; it is stored and never changes.
func (s *Server) diffCheckpoint(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	against, _ := q.text("against")
	format := oneOf(q, "format", api.DiffCheckpointParamsFormatJSON, api.DiffCheckpointParamsFormatUnified)
	wait := waitFor(q)
	in := run.DiffInputs{Path: q.folder("path"), First: q.firstChange()}
	if err := q.err(); err != nil {
		return err
	}
	ctx := c.Request().Context()
	ck, err := s.checkpoint(c, p)
	if err != nil {
		return err
	}
	from, err := s.otherEnd(ctx, p, ck, against)
	if err != nil {
		return err
	}
	in.To = run.CheckpointID.Format(ck.ID)
	if from != uuid.Nil {
		in.From = run.CheckpointID.Format(from)
	}
	for try := 0; ; try++ {
		d, r, err := s.diff(c.Request(), p, ck, from, in, wait)
		if err != nil {
			return err
		}
		if r != nil {
			return accepted(c, *r, api.CheckpointDiff{DiffRunID: ptr(run.RunID.Format(r.ID))})
		}
		key, err := s.sendDiff(c, p, d, format)
		if _, lost := blob.Lost(err); !lost || try > 0 {
			return err
		}
		s.Log.WarnContext(ctx, "a stored diff is lost and computed anew", "error", err)
		if err := s.Store.LoseDiff(ctx, p.Tenant, d, key); err != nil {
			return err
		}
	}
}

// otherEnd returns the checkpoint that ck is to be compared with; zero is none, before the
// first one of a run.
func (s *Server) otherEnd(ctx context.Context, p *identity.Principal, ck run.Checkpoint, against string) (uuid.UUID, error) {
	switch against {
	case "", "parent":
		if len(ck.Parents) == 0 {
			return uuid.Nil, nil
		}
		return ck.Parents[0], nil
	case "base":
		base, err := s.Store.Base(ctx, p.Tenant, ck.ID)
		if errors.Is(err, fault.NotFound) {
			return uuid.Nil, fault.New(fault.Conflict, "no-base", "the checkpoint descends from no other run's: its run is not a branch")
		}
		return base, err
	}
	id, err := run.CheckpointID.Parse(against)
	if err != nil {
		return uuid.Nil, badParameter("against", "must be parent, base or the id of a checkpoint")
	}
	_, _, err = s.Store.CheckpointContent(ctx, p.Tenant, id)
	return id, err
}

// diff returns the stored diff of two checkpoints, or the run that is still computing it
// after wait.
func (s *Server) diff(req *http.Request, p *identity.Principal, ck run.Checkpoint, from uuid.UUID, in run.DiffInputs, wait time.Duration) (postgres.Diff, *run.Run, error) {
	ctx := req.Context()
	d, err := s.Store.Diff(ctx, p.Tenant, from, ck.ID, in.Options())
	if err == nil && !d.Lost || err != nil && !errors.Is(err, fault.NotFound) {
		return d, nil, err
	}
	r, err := s.startWork(ctx, req, p, work{
		tool: run.ToolDiff, key: fmt.Sprintf("%s/%s/%d/%s", in.From, in.To, d.Losses, in.Options()),
		goal: "compare checkpoint " + in.To, inputs: in, subject: &ck.RunID,
	})
	if err != nil {
		return d, nil, err
	}
	if r, err = s.ended(ctx, r, wait); err != nil {
		return d, nil, err
	}
	if !run.RunMachine.Terminal(r.State) {
		return d, &r, nil
	}
	d, err = s.Store.Diff(ctx, p.Tenant, from, ck.ID, in.Options())
	if err == nil && !d.Lost {
		return d, nil, nil
	}
	if err != nil && !errors.Is(err, fault.NotFound) {
		return d, nil, err
	}
	return d, nil, diffFailed(r, in)
}

// diffFailed returns the refusal for a run that could not compute a diff.
func diffFailed(r run.Run, in run.DiffInputs) error {
	switch {
	case r.FailureClass == run.ClassInvalid && in.First > 0:
		return fault.New(fault.Invalid, "bad-cursor", "%s", strings.TrimPrefix(r.Reason, "step diff: "))
	case strings.Contains(r.Reason, "object-gone: "):
		return fault.New(fault.Gone, "object-gone", "bytes of one of the checkpoints are gone (run %s)", run.RunID.Format(r.ID))
	case strings.Contains(r.Reason, "object-corrupt: "):
		return fault.New(fault.Conflict, "object-corrupt", "bytes of one of the checkpoints are corrupt (run %s)", run.RunID.Format(r.ID))
	}
	return workFailed(r)
}

// sendDiff answers with a stored diff or, if it is large, with where it is. The key of the
// object that holds it is returned beside an error.
func (s *Server) sendDiff(c echo.Context, p *identity.Principal, d postgres.Diff, format api.DiffCheckpointParamsFormat) (key string, err error) {
	object, size, form := d.JSON, d.JSONBytes, "json"
	if format == api.DiffCheckpointParamsFormatUnified {
		object, size, form = d.Patch, d.PatchBytes, "patch"
	}
	ctx, header := c.Request().Context(), c.Response().Header()
	key = blob.DiffKey(p.Tenant, object, d.Copy, form)
	tag := `"` + object.String() + `"`
	if slices.Contains(strings.Split(strings.ReplaceAll(c.Request().Header.Get("If-None-Match"), " ", ""), ","), tag) {
		header.Set("ETag", tag)
		return key, c.NoContent(http.StatusNotModified)
	}
	if size > maxInlineDiff {
		if _, err := s.Blobs.Stat(ctx, key); err != nil {
			return key, err
		}
		url, expires, err := s.signedURL(ctx, p, run.CheckpointID.Format(d.To), key, run.CheckpointID.Format(d.To)+"."+form)
		if err != nil {
			return key, err
		}
		header.Set("ETag", tag)
		if form == "patch" {
			return key, seeOther(c, url)
		}
		return key, answer(c, http.StatusOK, api.CheckpointDiff{URL: &url, ExpiresAt: &expires, SizeBytes: &size})
	}
	content, err := s.readDiff(ctx, key, object, size, form)
	if err != nil {
		return key, err
	}
	header.Set("ETag", tag)
	if form == "patch" {
		return key, c.Blob(http.StatusOK, "text/x-diff", content)
	}
	return key, c.Blob(http.StatusOK, echo.MIMEApplicationJSON, slices.Concat([]byte(`{"diff":`), content, fmt.Appendf(nil, `,"size_bytes":%d}`, size)))
}

// readDiff returns a stored diff of so many bytes, verified.
func (s *Server) readDiff(ctx context.Context, key string, object tree.Digest, size int64, form string) ([]byte, error) {
	r, err := s.Blobs.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, 2*maxInlineDiff))
	if err != nil {
		return nil, err
	}
	if tree.Sum(content) != object {
		return nil, blob.At(key, blob.Corrupt(fmt.Errorf("%s has the digest %s", key, tree.Sum(content))))
	}
	if form == "json" {
		z, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			return nil, blob.At(key, blob.Corrupt(err))
		}
		if content, err = io.ReadAll(io.LimitReader(z, size)); err != nil {
			return nil, blob.At(key, blob.Corrupt(err))
		}
	}
	return content, nil
}

// folder returns a path within the workspace, "" for all of it.
func (q *query) folder(name string) string {
	s, _ := q.text(name)
	s = strings.TrimSuffix(s, "/")
	if s != "" && (!fs.ValidPath(s) || len(s) > 1024) {
		q.bad(name, "must be a path relative to the workspace, of at most 1024 bytes")
	}
	return s
}

// firstChange returns the change that the cursor of a diff names.
func (q *query) firstChange() int {
	s, given := q.text("cursor")
	if !given {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || strconv.Itoa(n) != s {
		q.cursor = badCursor()
	}
	return n
}
