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
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sieve"
)

// commitID is a commit by its hash, perhaps the beginning of one.
var commitID = regexp.MustCompile(`^[0-9a-f]{7,64}$`)

// checkout brings a repository at a branch, tag or commit into the workspace or a
// folder of it. The folder may hold files already, as long as none is in the way.
// Only what NOFX_GIT_ALLOW names is asked, for submodules and files of Git LFS as well;
// no hook, helper, credential, redirect or configuration of the machine takes part.
//
// Output: commit, its full hash. HEAD is detached there.
func (b *Box) checkout(ctx context.Context, c Call, in run.CheckoutInputs) (Result, error) {
	from, err := b.repository(in.URL)
	if err != nil {
		return Result{}, err
	}
	g, err := b.git(c, from, in.Path)
	if err != nil {
		return Result{}, err
	}
	commit, err := g.checkout(ctx, in)
	if err != nil {
		return Result{Usage: *g.usage}, err
	}
	fmt.Fprintf(c.Log, "checked out %s\n", commit)
	if err := g.complete(ctx, in); err != nil {
		return Result{Usage: *g.usage}, err
	}
	return Result{Usage: *g.usage, Outputs: map[string]any{"commit": commit}}, nil
}

// checkoutDir makes the folder to check out into, which stays in the workspace
// wherever symlinks point.
func checkoutDir(workspace, path string) (string, error) {
	root, err := os.OpenRoot(workspace)
	if err != nil {
		return "", Failuref(run.ClassInfrastructure, "open workspace: %w", err)
	}
	defer root.Close()
	if path != "" {
		if err := root.MkdirAll(path, 0o755); err != nil {
			return "", broken("make folder "+path, err)
		}
	}
	if _, err := root.Lstat(filepath.Join(path, ".git")); !errors.Is(err, fs.ErrNotExist) {
		return "", Failuref(run.ClassInvalid, "there is a repository in %q already", "/"+path)
	}
	return filepath.Join(workspace, path), nil
}

// git is a repository that is being made.
type git struct {
	box     *Box
	call    Call
	from    repository
	path    string // in the workspace
	dir     string // the same, absolute
	env     []string
	nesting int // 0 of the step's own, 1 of its submodules
	usage   *run.Usage
}

// git prepares commands for a new repository in a folder of the workspace. The
// configuration of one before does not hold any more.
func (b *Box) git(c Call, from repository, path string) (*git, error) {
	dir, err := checkoutDir(c.Workspace, path)
	if err != nil {
		return nil, err
	}
	scratch, err := openScratch(c)
	if err != nil {
		return nil, err
	}
	defer scratch.Close()
	const config = "gitconfig"
	if err := scratch.WriteFile(config, []byte(from.config()), 0o600); err != nil {
		return nil, Failuref(run.ClassInfrastructure, "write git's configuration: %w", err)
	}
	env := append(b.environment(c, nil),
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL="+filepath.Join(c.Scratch, config),
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=true",
		"GIT_DIR="+filepath.Join(dir, ".git"),
		"GIT_WORK_TREE="+dir)
	return &git{box: b, call: c, from: from, path: path, dir: dir, env: env, usage: &run.Usage{}}, nil
}

func (g *git) checkout(ctx context.Context, in run.CheckoutInputs) (commit string, err error) {
	if _, err = g.run(ctx, g.call.Log, "init", "--quiet", "--template="); err != nil {
		return "", err
	}
	if _, err = g.run(ctx, g.call.Log, "remote", "add", "origin", g.from.url); err != nil {
		return "", err
	}
	wanted, err := g.fetch(ctx, in)
	if err != nil {
		return "", err
	}
	out, err := g.run(ctx, g.call.Log, "rev-parse", "--verify", "--quiet", wanted+"^{commit}")
	if _, refused := errors.AsType[*Failure](err); refused && wanted == in.Ref {
		return "", Failuref(run.ClassTool, "there is no commit %s%s", in.Ref, orSeveral(in.Ref))
	}
	if err != nil {
		return "", err
	}
	commit = strings.TrimSpace(out)
	_, err = g.run(ctx, g.call.Log, "checkout", "--quiet", "--detach", "--no-recurse-submodules", commit)
	return commit, err
}

// orSeveral returns what else is possible where part of a hash names no commit.
func orSeveral(hash string) string {
	const sha1, sha256 = 40, 64
	if len(hash) == sha1 || len(hash) == sha256 {
		return ""
	}
	return ", or more than one that begins so"
}

// fetch brings the ref in and says by what name it is known here.
func (g *git) fetch(ctx context.Context, in run.CheckoutInputs) (wanted string, err error) {
	args := []string{"fetch", "--no-tags", "--no-recurse-submodules"}
	depth := 1
	if in.Depth != nil {
		depth = *in.Depth
	}
	one := args
	if depth > 0 {
		one = append(one, "--depth", strconv.Itoa(depth))
	}
	ref := in.Ref
	if ref == "" {
		ref = "HEAD"
	}
	log := g.call.Log
	if commitID.MatchString(ref) {
		log = io.Discard // a refusal is no news: see below
	}
	// With a + in front, no ref is anything else to git, such as the word tag.
	_, err = g.run(ctx, log, append(one, "origin", "+"+ref)...)
	if err == nil || log != io.Discard || ctx.Err() != nil {
		return "FETCH_HEAD", err
	}
	// Part of a hash is no name to a server, and some serve only what a branch
	// or a tag points at: look for the commit in all they have.
	_, err = g.run(ctx, g.call.Log, append(args, "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")...)
	return ref, err
}

// run runs git once and returns its stdout, or why it did not succeed.
func (g *git) run(ctx context.Context, log io.Writer, args ...string) (string, error) {
	var out bytes.Buffer
	complaint := sieve.NewTail(maxOutput, g.box.cfg.Redactor.String)
	exit, err := g.box.run(ctx, sandbox.Command{
		Argv: append([]string{"git"}, args...), Dir: g.dir, Env: g.env,
		Writable: []string{g.call.Workspace, g.call.Scratch}, Readable: g.from.readable(), Network: true,
		Stdout: &out, Stderr: io.MultiWriter(log, complaint),
	})
	g.usage.AddProgram(usage(exit))
	if err != nil {
		return "", err
	}
	if exit.Code != 0 {
		said := strings.Join(strings.Fields(complaint.End()), " ")
		if i := strings.LastIndex(said, "fatal: "); i >= 0 {
			said = said[i:]
		}
		return "", Failuref(run.ClassTool, "%s: %s", howEnded("git "+args[0], exit, ""), sieve.Beginning(said, 1<<10))
	}
	return out.String(), nil
}
