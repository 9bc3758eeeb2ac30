package tool

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sandbox"
)

// bash runs a script in the workspace as `bash -e FILE`: the first command that
// fails ends it. Pipelines answer for their last command, as people write
// `yes | head`; a script that wants more says `set -o pipefail`.
//
// Outputs: exit_code, and outputs, an object of what it wrote to $NOFX_OUTPUT.
func (b *Box) bash(ctx context.Context, c Call, in run.BashInputs) (Result, error) {
	scratch, err := openScratch(c)
	if err != nil {
		return Result{}, err
	}
	defer scratch.Close()
	exit, err := b.script(ctx, c, scratch, script{text: in.Script, options: []string{"-e"}, env: in.Env, out: c.Log})
	r := Result{Usage: usage(exit)}
	if err != nil {
		return r, err
	}
	r.ExitCode = exitCode(exit)
	r.Outputs = map[string]any{"exit_code": *r.ExitCode}
	if exit.Code != 0 {
		return r, failure(run.ClassTool, "%s", howEnded("the script", exit))
	}
	values, err := readOutputs(scratch)
	if err != nil {
		return r, err
	}
	r.Outputs["outputs"] = values
	return r, nil
}

// script is text for bash.
type script struct {
	text    string
	options []string
	env     map[string]string
	out     io.Writer
}

// script runs s from a file, since an argument holds 128 KiB at most. Line ends of
// Windows, which bash would take for a part of its words, become plain ones.
func (b *Box) script(ctx context.Context, c Call, scratch *os.Root, s script) (sandbox.Exit, error) {
	text := strings.ReplaceAll(s.text, "\r\n", "\n")
	if err := scratch.WriteFile(scriptFile, []byte(text), 0o600); err != nil {
		return sandbox.Exit{}, failure(run.ClassInfrastructure, "write script: %w", err)
	}
	argv := append([]string{"bash"}, s.options...)
	return b.run(ctx, sandbox.Command{
		Argv:   append(argv, filepath.Join(c.Scratch, scriptFile)),
		Dir:    c.Workspace,
		Env:    b.environment(c, s.env),
		Stdout: s.out,
		Stderr: s.out,
	})
}

func howEnded(what string, e sandbox.Exit) string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s was ended by signal %d (%v)", what, int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("%s ended with exit code %d", what, e.Code)
}
