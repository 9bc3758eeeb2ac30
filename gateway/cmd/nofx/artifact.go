package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) artifactCommand() *cobra.Command {
	return group("artifact", "Upload and download files",
		a.artifactUploadCommand(), a.artifactCompleteCommand(), a.artifactListCommand(), a.artifactDownloadCommand())
}

func (a *app) artifactUploadCommand() *cobra.Command {
	var name, media string
	c := &cobra.Command{
		Use:   "upload FILE",
		Short: "Upload a file that plans can name by its id",
		Long: `Upload a file. The bytes go directly to storage; then a worker verifies them.
A plan names the artifact as its workspace (an archive, tar.gz or zip) or in the files
of a workspace:write.`,
		Example:     `  git archive --format tar.gz HEAD > tree.tar.gz && nofx artifact upload tree.tar.gz`,
		Args:        cobra.ExactArgs(1),
		Annotations: map[string]string{localFiles: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, request, err := announce(args[0], name, media)
			if err != nil {
				return err
			}
			defer f.Close()
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			id, err := a.upload(cmd.Context(), client, f, request)
			if err != nil {
				return err
			}
			return a.complete(cmd.Context(), client, id)
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the artifact (default: the name of FILE)")
	c.Flags().StringVar(&media, "media-type", "", "media type (default: from the ending of the name)")
	return c
}

func (a *app) artifactCompleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "complete ARTIFACT",
		Short: "Verify an upload that was interrupted after its bytes had arrived",
		Long: `Have a worker verify the bytes of an upload, as "upload" does at its end. Use this when
"upload" was interrupted; nothing is uploaded again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			return a.complete(cmd.Context(), client, args[0])
		},
	}
}

// complete has the uploaded bytes verified and answers with the artifact.
func (a *app) complete(ctx context.Context, client *api.Client, id string) error {
	done, raw, err := a.verified(ctx, client, id)
	if err != nil {
		return err
	}
	return a.answer(raw, func(w io.Writer) { printArtifact(w, done.Artifact) })
}

// verified has the uploaded bytes verified and asks until there is a result. Without a
// result it says how to continue later.
func (a *app) verified(ctx context.Context, client *api.Client, id string) (api.ArtifactAnswer, []byte, error) {
	done, raw, err := await(ctx, a, "verifying it", func() (*http.Response, error) { return client.CompleteArtifact(ctx, id, nil) },
		func(d api.ArtifactAnswer) string { return deref(d.VerifyRunID) })
	if err == nil {
		return done, raw, nil
	}
	var p *problemError
	refused := errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusConflict)
	if asItCame := p != nil && a.json; !refused && !asItCame { // the answer names the artifact too
		fmt.Fprintf(a.errOut, "the uploaded bytes are stored but not verified yet; to continue: %s artifact complete %s\n", a.self(), id)
	}
	return done, raw, err
}

func printArtifact(w io.Writer, f api.Artifact) {
	facts(w, "artifact", f.ID, "name", f.Name, "type", f.MediaType, "size", size(f.SizeBytes), "sha256", f.Sha256, "run", deref(f.RunID))
}

// announce opens a file and returns the request that announces its content.
func announce(file, name, media string) (*os.File, api.ArtifactRequest, error) {
	var none api.ArtifactRequest
	f, err := os.Open(file)
	if err != nil {
		return nil, none, usagef("the file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", file)
	}
	h := sha256.New()
	var n int64
	if err == nil {
		n, err = io.Copy(h, f)
	}
	if err != nil {
		f.Close()
		return nil, none, usagef("the file: %w", err)
	}
	if name == "" {
		name = filepath.Base(file)
	}
	if !utf8.ValidString(name) {
		f.Close()
		return nil, none, usagef("%q is not UTF-8, so that it cannot name an artifact", name)
	}
	if media == "" {
		media = mime.TypeByExtension(filepath.Ext(name))
	}
	return f, api.ArtifactRequest{Name: name, SizeBytes: n, Sha256: hex.EncodeToString(h.Sum(nil)), MediaType: optional(media)}, nil
}

// upload puts f where the gateway says. An interrupted transfer starts again from the first
// byte, with a fresh URL for the same artifact.
func (a *app) upload(ctx context.Context, client *api.Client, f *os.File, request api.ArtifactRequest) (id string, err error) {
	key := rand.Text()
	for try := 1; ; try++ {
		created, _, err := call[api.CreatedArtifact](client.CreateArtifact(ctx, &api.CreateArtifactParams{IdempotencyKey: &key}, request))
		if err != nil {
			return "", err
		}
		if created.Upload == nil {
			return created.Artifact.ID, nil
		}
		err = a.put(ctx, *created.Upload, f, request.SizeBytes)
		if _, stalled := errors.AsType[*stalledError](err); err == nil || stalled || try == maxTries || ctx.Err() != nil {
			return created.Artifact.ID, err
		}
		if err := a.pause(ctx, jitter(200*time.Millisecond<<try)); err != nil {
			return "", err
		}
	}
}

func (a *app) put(ctx context.Context, u api.Upload, f *os.File, size int64) error {
	p := a.transfer("up", size, 0)
	defer p.end()
	body := io.TeeReader(io.NewSectionReader(f, 0, size), p)
	req, err := http.NewRequestWithContext(ctx, string(u.Method), u.URL, io.NopCloser(body))
	if err != nil {
		return err
	}
	for name, value := range u.Headers {
		req.Header.Set(name, value)
	}
	req.ContentLength = size
	resp, err := a.exchange(req)
	if err != nil {
		return fmt.Errorf("upload: %w", cause(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("upload: the storage answered %s", resp.Status)
	}
	return nil
}

func (a *app) artifactListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:               "list RUN",
		Short:             "List what a run produced, oldest first",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.ArtifactPage](client.ListArtifacts(cmd.Context(), args[0],
				&api.ListArtifactsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, f := range page.Items {
					rows[i] = []string{f.ID, f.Name, f.MediaType, size(f.SizeBytes), f.Sha256, clock(&f.CreatedAt)}
				}
				a.table(w, []string{"ARTIFACT", "NAME", "TYPE", "SIZE", "SHA256", "CREATED"}, rows, "SHA256", "CREATED", "TYPE")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

// digestOfFile reads a regular file: of others no end may come.
func digestOfFile(file string) (sum string, n int64, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", 0, err
	}
	if !info.Mode().IsRegular() {
		return "", 0, usagef("%s exists and is not a regular file; give another name with -o", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return digestOf(f)
}

func digestOf(r io.Reader) (sum string, n int64, err error) {
	h := sha256.New()
	n, err = io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// transfer shows on a terminal how far a transfer is.
type transfer struct {
	w     io.Writer // nil without a terminal
	now   func() time.Time
	verb  string
	total int64
	done  int64
	shown time.Time
}

func (a *app) transfer(verb string, total, done int64) *transfer {
	t := &transfer{now: a.now, verb: verb, total: total, done: done}
	if a.screen != nil && !a.json {
		t.w = a.errOut
	}
	return t
}

func (t *transfer) Write(p []byte) (int, error) {
	t.done += int64(len(p))
	if now := t.now(); t.w != nil && (now.Sub(t.shown) > 200*time.Millisecond || t.done >= t.total) {
		t.shown = now
		fmt.Fprintf(t.w, "\r%s %s of %s, %d %% \x1b[K", t.verb, size(t.done), size(t.total), 100*t.done/max(t.total, 1))
	}
	return len(p), nil
}

func (t *transfer) end() {
	if t.w != nil {
		fmt.Fprint(t.w, "\r\x1b[K")
	}
}
