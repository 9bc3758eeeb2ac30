// Package replay answers requests as they were answered before.
//
// A folder holds one file for each request, named by its digest. A request that was
// not recorded is an error that names the digest: nothing is made up. The files hold
// what a model answered, and of the request nothing.
package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/llm"
)

type recorded struct{ dir, name string }

// New returns the model of that name as it was recorded in dir.
func New(dir, name string) llm.Model { return recorded{dir, name} }

func (m recorded) Name() string { return m.name }

// Complete returns the recorded answer, fault.NotFound (not-recorded) for a request
// without a recording, and fault.Invalid for a recording that is broken.
func (m recorded) Complete(_ context.Context, r llm.Request) (llm.Response, error) {
	digest, err := r.Digest(m.name)
	if err != nil {
		return llm.Response{}, err
	}
	raw, err := os.ReadFile(file(m.dir, digest))
	if errors.Is(err, fs.ErrNotExist) {
		return llm.Response{}, fault.New(fault.NotFound, "not-recorded", "no answer of %s is recorded for request %s", m.name, digest)
	}
	if err != nil {
		return llm.Response{}, fmt.Errorf("read a recording: %w", err)
	}
	var resp llm.Response
	if err := json.Unmarshal(raw, &resp); err != nil || resp.Stop == "" {
		return llm.Response{}, fault.New(fault.Invalid, "invalid", "the recording of request %s cannot be read", digest)
	}
	return resp, nil
}

type recorder struct {
	llm.Model
	dir string
}

// Record returns m, with its answers written to dir.
func Record(m llm.Model, dir string) llm.Model { return recorder{m, dir} }

func (m recorder) Complete(ctx context.Context, r llm.Request) (llm.Response, error) {
	resp, err := m.Model.Complete(ctx, r)
	if err != nil {
		return resp, err
	}
	digest, err := r.Digest(m.Name())
	if err != nil {
		return resp, err
	}
	raw, err := json.MarshalIndent(resp, "", "  ")
	if err != nil {
		return resp, fmt.Errorf("answer as JSON: %w", err)
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return resp, fmt.Errorf("folder of recordings: %w", err)
	}
	draft, err := os.CreateTemp(m.dir, "draft-*")
	if err != nil {
		return resp, fmt.Errorf("record an answer: %w", err)
	}
	_, err = draft.Write(append(raw, '\n'))
	if closeErr := draft.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(draft.Name(), file(m.dir, digest))
	}
	if err != nil {
		os.Remove(draft.Name())
		return resp, fmt.Errorf("record an answer: %w", err)
	}
	return resp, nil
}

func file(dir, digest string) string { return filepath.Join(dir, digest+".json") }
