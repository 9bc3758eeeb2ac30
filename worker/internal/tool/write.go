package tool

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// write puts files into the workspace, each one whole or not at all, and never
// outside it, wherever symlinks point. A link in a file's place is replaced.
//
// Output: files, the paths written, as far as they fit, and total, how many.
func (b *Box) write(ctx context.Context, c Call, in run.WriteInputs) (Result, error) {
	root, err := os.OpenRoot(c.Workspace)
	if err != nil {
		return Result{}, Failuref(run.ClassInfrastructure, "open workspace: %w", err)
	}
	defer root.Close()
	paths := make([]string, 0, len(in.Files))
	left := int64(workspaceBytes)
	for _, f := range in.Files {
		if ctx.Err() != nil {
			return Result{}, ended(ctx)
		}
		if err := writeFile(ctx, c, root, f, &left); err != nil {
			if fault.KindOf(err) != "" || ctx.Err() != nil {
				return Result{}, fetching(ctx, "artifact of "+f.Path, err)
			}
			return Result{}, broken("write "+f.Path, err)
		}
		paths = append(paths, f.Path)
		fmt.Fprintf(c.Log, "wrote %s\n", f.Path)
	}
	return Result{Outputs: map[string]any{"files": Fit(paths), "total": len(paths)}}, nil
}

// fetching returns why an artifact could not be read: what the storage says of it is
// the worker's to judge.
func fetching(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// content opens what f shall hold and says how many bytes that is.
func content(ctx context.Context, c Call, f run.WriteFile) (io.ReadCloser, int64, error) {
	if f.ArtifactID != "" {
		return c.Artifact(ctx, f.ArtifactID)
	}
	b, err := f.Bytes()
	return io.NopCloser(bytes.NewReader(b)), int64(len(b)), err
}

// writeFile takes what it writes off left.
func writeFile(ctx context.Context, c Call, root *os.Root, f run.WriteFile, left *int64) (err error) {
	r, size, err := content(ctx, c, f)
	if err != nil {
		return err
	}
	defer r.Close()
	if *left -= size; *left < 0 {
		return fmt.Errorf("its files are larger than %d bytes together", int64(workspaceBytes))
	}
	dir := path.Dir(f.Path)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if f.Mode == "755" {
		mode = 0o755
	}
	draft := path.Join(dir, ".nofx-"+rand.Text())
	defer func() {
		if err != nil {
			_ = root.Remove(draft)
		}
	}()
	if err := fill(root, draft, mode, r); err != nil {
		return err
	}
	return root.Rename(draft, f.Path)
}

// fill makes the file at path, where nothing is, of all that r holds.
func fill(root *os.Root, path string, mode os.FileMode, r io.Reader) error {
	f, err := root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask
	}
	return errors.Join(err, f.Close())
}
