package tool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"nofx.dev/shared/run"
)

// maxNesting is how deep submodules may lie in each other.
const maxNesting = 10

// complete fetches what the checkout has only by name, submodules and files of Git LFS,
// as far as in asks for them, and tells of the others in the log.
func (g *git) complete(ctx context.Context, in run.CheckoutInputs) error {
	modules, err := g.submodules(ctx)
	if err != nil {
		return err
	}
	files, err := g.pointers(ctx)
	if err != nil {
		return err
	}
	switch n := len(files); {
	case n > 0 && in.LFS:
		if err := g.fetchLFS(ctx, files); err != nil {
			return err
		}
	case n > 0:
		fmt.Fprintf(g.call.Log, "files of Git LFS that were not fetched, so that pointers are in their place: %d, the first %s; the input lfs fetches them\n", n, files[0].path)
	}
	if n := len(modules); n > 0 && !in.Submodules {
		fmt.Fprintf(g.call.Log, "submodules that were not fetched: %d, the first at %s; the input submodules fetches them\n", n, modules[0].path)
		return nil
	}
	for _, m := range modules {
		if err := g.submodule(ctx, in, m); err != nil {
			if f, ok := errors.AsType[*Failure](err); ok {
				return &Failure{Class: f.Class, Reason: fmt.Sprintf("submodule %q: %s", m.path, f.Reason), Err: f.Err}
			}
			return err
		}
	}
	return nil
}

// submodule checks one out, by the same rules as any repository.
func (g *git) submodule(ctx context.Context, in run.CheckoutInputs, m submodule) error {
	if g.nesting == maxNesting {
		return Failuref(run.ClassInvalid, "there are more than %d levels of them", maxNesting)
	}
	from, err := g.box.repository(besides(g.from.url, m.url))
	if err != nil {
		return err
	}
	in.Ref, in.Path = m.commit, path.Join(g.path, m.path)
	sub, err := g.box.git(g.call, from, in.Path)
	if err != nil {
		return err
	}
	sub.usage, sub.nesting = g.usage, g.nesting+1
	if _, err := sub.checkout(ctx, in); err != nil {
		return err
	}
	fmt.Fprintf(g.call.Log, "checked out %s at %s\n", m.commit, in.Path)
	return sub.complete(ctx, in)
}

// besides returns the address of a submodule: one that begins with ./ or ../ is relative to
// that of the repository which names it.
func besides(repository, address string) string {
	u, err := url.Parse(repository)
	if err != nil || !strings.HasPrefix(address, "./") && !strings.HasPrefix(address, "../") {
		return address
	}
	u.Path = path.Join(u.Path, address)
	u.RawPath = ""
	return u.String()
}

// submodule is a repository in the checkout, at a commit.
type submodule struct{ path, commit, url string }

const gitlink = "160000"

// submodules returns those that the checkout names with an address.
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
