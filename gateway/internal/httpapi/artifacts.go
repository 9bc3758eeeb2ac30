package httpapi

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// listArtifacts answers what a run produced, oldest first, without URLs.
func (s *Server) listArtifacts(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, after := q.limit(200), q.afterID("artifacts")
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.RunID, "run_id")
	if err != nil {
		return err
	}
	artifacts, err := s.Store.Artifacts(c.Request().Context(), p.Tenant, id, after, limit+1)
	if err != nil {
		return err
	}
	artifacts, next := page(c, "artifacts", artifacts, limit, func(a run.Artifact) string { return a.ID.String() })
	return answer(c, http.StatusOK, api.ArtifactPage{Items: convert(artifacts, apiArtifact), NextCursor: next})
}

// getArtifact answers an artifact with a URL that serves its bytes for a while,
// or with redirect=1 sends the caller there.
func (s *Server) getArtifact(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	redirect := oneOf(q, "redirect", "1") != ""
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.ArtifactID, "artifact_id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	a, err := s.Store.Artifact(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	return s.answerArtifact(c, p, a, redirect)
}

// answerArtifact answers an artifact with a URL that serves its bytes for a while, or sends
// the caller there.
func (s *Server) answerArtifact(c echo.Context, p *identity.Principal, a run.Artifact, redirect bool) error {
	out, err := s.signedArtifact(c.Request().Context(), p, a)
	if err != nil {
		return err
	}
	if redirect {
		return seeOther(c, *out.URL)
	}
	return answer(c, http.StatusOK, api.ArtifactAnswer{Artifact: out})
}

// signedArtifact returns an artifact with a URL that serves its bytes for a while.
func (s *Server) signedArtifact(ctx context.Context, p *identity.Principal, a run.Artifact) (api.Artifact, error) {
	out := apiArtifact(a)
	d := tree.Digest(a.SHA256)
	at, err := s.Store.LocateBlobs(ctx, p.Tenant, []tree.Digest{d})
	if err != nil {
		return out, err
	}
	if at[d].Purged {
		return out, blob.Purged(fmt.Errorf("artifact %s", a.ID))
	}
	url, expires, err := s.signedURL(ctx, p, out.ID, a.Key, a.Name)
	if err == nil {
		out.URL, out.ExpiresAt = &url, &expires
	}
	return out, err
}

// createArtifact announces an artifact and answers where its bytes go. What is
// stored under an Idempotency-Key is the artifact alone: a URL is minted for each
// answer and kept nowhere.
func (s *Server) createArtifact(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, body, err := readJSON[api.ArtifactRequest](c)
	if err != nil {
		return err
	}
	var wanted run.Artifact
	a, err := s.once(c, p, request{
		body: body,
		check: func() (err error) {
			wanted, err = newArtifact(in)
			return err
		},
		do: func(ctx context.Context) (postgres.Answer, error) {
			wanted.Key = blob.UploadKey(p.Tenant, wanted.ID)
			created, err := s.Store.CreateUpload(ctx, p.Tenant, wanted)
			if err != nil {
				return postgres.Answer{}, err
			}
			out := apiArtifact(created)
			return postgres.Answer{
				Status: http.StatusCreated,
				Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON, "Location": "/api/artifacts/" + out.ID},
				Body:   encode(api.CreatedArtifact{Artifact: out}),
			}, nil
		},
	})
	if err == nil && a.Status == http.StatusCreated {
		a.Body, err = s.withUpload(c.Request().Context(), p, a.Body)
	}
	if err != nil {
		return err
	}
	return s.send(c, a)
}

// withUpload adds to the answer with a created artifact where its bytes go, while
// they are wanted.
func (s *Server) withUpload(ctx context.Context, p *identity.Principal, body []byte) ([]byte, error) {
	var out api.CreatedArtifact
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("stored artifact: %w", err)
	}
	id, err := run.ArtifactID.Parse(out.Artifact.ID)
	if err != nil {
		return nil, err
	}
	a, err := s.Store.Upload(ctx, p.Tenant, id)
	if err != nil {
		return nil, err
	}
	if a.State == run.Pending {
		expires := urlExpiry()
		url, headers, err := s.Blobs.SignedPut(ctx, a.Key, a.Size, blob.MaxSignedTTL)
		if err != nil {
			return nil, err
		}
		if err := s.auditURLs(ctx, p, out.Artifact.ID, http.MethodPut, expires, url); err != nil {
			return nil, err
		}
		out.Upload = &api.Upload{Method: api.UploadMethodPUT, URL: url, Headers: headers, ExpiresAt: expires}
	}
	return encode(out), nil
}

// newArtifact returns the artifact that in asks for, or all that is wrong with it.
func newArtifact(in api.ArtifactRequest) (run.Artifact, error) {
	var fields []fault.Field
	bad := func(at, detail string) { fields = append(fields, fault.Field{Pointer: at, Detail: detail}) }
	if detail := badName(in.Name, 255); detail != "" {
		bad("/name", detail)
	}
	if in.SizeBytes < 1 || in.SizeBytes > run.MaxArtifactBytes {
		bad("/size_bytes", fmt.Sprintf("must be between 1 and %d", int64(run.MaxArtifactBytes)))
	}
	sum, err := hex.DecodeString(in.Sha256)
	if err != nil || len(sum) != 32 || hex.EncodeToString(sum) != in.Sha256 {
		bad("/sha256", "must be 64 hex digits in lower case")
	}
	media := "application/octet-stream"
	if in.MediaType != nil {
		media = *in.MediaType
		if _, _, err := mime.ParseMediaType(media); err != nil || len(media) > 255 || !strings.Contains(media, "/") {
			bad("/media_type", "must be a media type such as text/plain")
		}
	}
	if len(fields) > 0 {
		return run.Artifact{}, fault.OfFields("invalid-field", fields...)
	}
	return run.Artifact{ID: run.NewID(), Name: in.Name, MediaType: media, Size: in.SizeBytes, SHA256: sum}, nil
}

// completeArtifact has a worker verify what a client has put for an artifact, and
// answers with the artifact once it is readable. Whoever asks while a verification is
// under way, in this gateway or another, is answered by that one.
func (s *Server) completeArtifact(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	wait := waitFor(q)
	if err := q.err(); err != nil {
		return err
	}
	id, err := pathID(c, run.ArtifactID, "artifact_id")
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	a, err := s.Store.Upload(ctx, p.Tenant, id)
	if err != nil {
		return err
	}
	if a.State == run.Ready {
		return answer(c, http.StatusOK, api.ArtifactAnswer{Artifact: apiArtifact(a)})
	}
	r, err := s.verifyUpload(c.Request(), p, a)
	if err != nil {
		return err
	}
	if r, err = s.ended(ctx, r, wait); err != nil {
		return err
	}
	if a, err = s.Store.Upload(ctx, p.Tenant, id); err != nil {
		return err
	}
	runID := run.RunID.Format(r.ID)
	switch {
	case a.State == run.Ready:
		return answer(c, http.StatusOK, api.ArtifactAnswer{Artifact: apiArtifact(a)})
	case !run.RunMachine.Terminal(r.State):
		return accepted(c, r, api.ArtifactAnswer{Artifact: apiArtifact(a), VerifyRunID: &runID})
	case r.FailureClass == run.ClassInvalid:
		return fault.New(fault.Conflict, "object-corrupt", "%s", r.Reason)
	}
	return fault.New(fault.Conflict, "verify-failed", "run %s, which verifies the artifact, is %s: %s; complete the artifact again to verify it again", runID, r.State, r.Reason)
}

// verifyUpload returns the system run that verifies what was put for a. There is one
// for each content that was put: of what was not right before, nothing else comes.
func (s *Server) verifyUpload(req *http.Request, p *identity.Principal, a run.Artifact) (run.Run, error) {
	put, err := s.Blobs.Stat(req.Context(), a.Key)
	if errors.Is(err, fault.Gone) {
		return run.Run{}, fault.New(fault.Conflict, "upload-incomplete", "nothing was uploaded to the artifact's URL yet").Because(err)
	}
	if err != nil {
		return run.Run{}, err
	}
	id := run.ArtifactID.Format(a.ID)
	return s.startWork(req.Context(), req, p, work{
		tool: run.ToolVerify, key: id + "/" + put.ETag, goal: "verify artifact " + id,
		inputs: run.VerifyInputs{ArtifactID: id, ETag: put.ETag},
	})
}

// seeOther sends the caller to a signed URL, which is for them alone.
func seeOther(c echo.Context, url string) error {
	c.Response().Header().Set("Location", url)
	return c.NoContent(http.StatusSeeOther)
}

func apiArtifact(a run.Artifact) api.Artifact {
	out := api.Artifact{
		ID: run.ArtifactID.Format(a.ID), Name: a.Name, MediaType: a.MediaType, SizeBytes: a.Size,
		Sha256: hex.EncodeToString(a.SHA256), CreatedAt: a.CreatedAt.UTC(),
	}
	if a.RunID != nil {
		out.RunID = ptr(run.RunID.Format(*a.RunID))
	}
	if a.StepID != nil {
		out.StepID = ptr(run.StepID.Format(*a.StepID))
	}
	return out
}
