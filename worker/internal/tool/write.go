package tool

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path"

	"nofx.dev/shared/run"
)

// write puts files into the workspace, each one whole or not at all, and never
// outside it, wherever symlinks point. A link in a file's place is replaced.
//
// Output: files, the paths written.
func (b *Box) write(ctx context.Context, c Call, in run.WriteInputs) (Result, error) {
	root, err := os.OpenRoot(c.Workspace)
	if err != nil {
		return Result{}, failure(run.ClassInfrastructure, "open workspace: %w", err)
	}
	defer root.Close()
	paths := make([]string, 0, len(in.Files))
	for _, f := range in.Files {
		if ctx.Err() != nil {
			return Result{}, ended(ctx)
		}
		if err := writeFile(root, f); err != nil {
			return Result{}, broken("write "+f.Path, err)
		}
		paths = append(paths, f.Path)
		fmt.Fprintf(c.Log, "wrote %s\n", f.Path)
	}
	return Result{Outputs: map[string]any{"files": paths}}, nil
}

func writeFile(root *os.Root, f run.WriteFile) (err error) {
	content, err := f.Bytes()
	if err != nil {
		return err
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
	if err := root.WriteFile(draft, content, 0o600); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(draft)
		}
	}()
	if err := root.Chmod(draft, mode); err != nil {
		return err
	}
	return root.Rename(draft, f.Path)
}
