package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/edit"
)

// unfetched tells in the log what a checkout has only by name: submodules, and files
// of Git LFS.
func (g *git) unfetched(ctx context.Context) error {
	modules, err := g.submodules(ctx)
	if err != nil {
		return err
	}
	files, err := g.pointers(ctx)
	if err != nil {
		return err
	}
	if n := len(modules); n > 0 {
		fmt.Fprintf(g.call.Log, "submodules that were not fetched: %d, the first at %s\n", n, modules[0].path)
	}
	if n := len(files); n > 0 {
		fmt.Fprintf(g.call.Log, "files of Git LFS that were not fetched, so that pointers are in their place: %d, the first %s\n", n, files[0].path)
	}
	return nil
}

// submodule is a repository in the checkout, at a commit.
type submodule struct{ path, commit, url string }

const gitlink = "160000"

// submodules are those that the checkout names and says an address of.
func (g *git) submodules(ctx context.Context) (all []submodule, err error) {
	if _, err := os.Lstat(filepath.Join(g.dir, ".gitmodules")); err != nil {
		return nil, nil
	}
	// What cannot be read names none.
	names, err := g.run(ctx, io.Discard, "config", "--null", "--file", ".gitmodules", "--get-regexp", `^submodule\..*\.(path|url)$`)
	if _, unreadable := errors.AsType[*Failure](err); unreadable && ctx.Err() == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	paths, urls := map[string]string{}, map[string]string{}
	for entry := range strings.SplitSeq(names, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		if name, ok := strings.CutSuffix(key, ".path"); ok {
			paths[value] = name
		} else if name, ok := strings.CutSuffix(key, ".url"); ok {
			urls[name] = value
		}
	}
	list, err := g.run(ctx, g.call.Log, "ls-files", "-z", "--stage")
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(list, "\x00") {
		about, path, _ := strings.Cut(entry, "\t")
		fields := strings.Fields(about)
		if len(fields) < 2 || fields[0] != gitlink {
			continue
		}
		if url := urls[paths[path]]; url != "" {
			all = append(all, submodule{path, fields[1], url})
		}
	}
	return all, nil
}

// pointer stands in the place of a file that Git LFS keeps elsewhere.
type pointer struct {
	path, oid string
	size      int64
}

const maxPointer = 1024 // bytes

var (
	pointerVersion = []byte("version https://git-lfs.github.com/spec/v1\n")
	pointerLines   = regexp.MustCompile(`(?m)^oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})$`)
)

// pointers are the files of the checkout that Git LFS has elsewhere.
func (g *git) pointers(ctx context.Context) (all []pointer, err error) {
	list, err := g.run(ctx, g.call.Log, "ls-files", "-z", "--", ":(attr:filter=lfs)")
	if err != nil || list == "" {
		return nil, err
	}
	root, err := os.OpenRoot(g.dir)
	if err != nil {
		return nil, failure(run.ClassInfrastructure, "open checkout: %w", err)
	}
	defer root.Close()
	for path := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		if info, err := root.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > maxPointer {
			continue
		}
		text, err := readSmall(root, path)
		if err != nil {
			return nil, broken("read "+path, err)
		}
		m := pointerLines.FindSubmatch(text)
		if m == nil || !bytes.HasPrefix(text, pointerVersion) {
			continue
		}
		size, _ := strconv.ParseInt(string(m[2]), 10, 64)
		all = append(all, pointer{path, string(m[1]), size})
	}
	return all, nil
}

func readSmall(root *os.Root, path string) ([]byte, error) {
	f, err := edit.Open(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPointer))
}
