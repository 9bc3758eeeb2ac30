package tool

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sieve"
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
	end := sieve.NewTail(maxOutput, b.cfg.Redactor.String)
	exit, err := b.script(ctx, c, scratch, script{text: in.Script, options: []string{"-e"}, env: in.Env, out: io.MultiWriter(c.Log, end)})
	r := Result{Usage: usage(exit)}
	if err != nil {
		return r, err
	}
	r.ExitCode = exitCode(exit)
	r.Outputs = map[string]any{"exit_code": *r.ExitCode}
	if exit.Code != 0 {
		return r, Failuref(run.ClassTool, "%s", howEnded("the script", exit, notRunOf(exit, end.End())))
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
// Windows, which bash would take for a part of its words, become plain ones. What the plan asks
// for of the network is there while it runs.
func (b *Box) script(ctx context.Context, c Call, scratch *os.Root, s script) (sandbox.Exit, error) {
	text := strings.ReplaceAll(s.text, "\r\n", "\n")
	if err := scratch.WriteFile(scriptFile, []byte(text), 0o600); err != nil {
		return sandbox.Exit{}, Failuref(run.ClassInfrastructure, "write script: %w", err)
	}
	n, err := b.openNetwork(c)
	if err != nil {
		return sandbox.Exit{}, err
	}
	defer n.close(c)
	argv := append([]string{"bash"}, s.options...)
	return b.run(ctx, sandbox.Command{
		Argv:     append(argv, filepath.Join(c.Scratch, scriptFile)),
		Dir:      c.Workspace,
		Env:      b.environment(c, s.env),
		Writable: []string{c.Workspace, c.Scratch},
		Proxy:    n.socket(),
		Stdout:   s.out,
		Stderr:   s.out,
	})
}

// How bash ends when there is no such program, or none it may execute.
const (
	notExecutable = 126
	notFound      = 127
)

// notRun is bash's complaint about a program that it could not run.
var notRun = regexp.MustCompile(`(?m): line \d+: (.+): (?:command not found|[Pp]ermission denied|[Nn]o such file or directory|cannot execute.*)$`)

// notRunOf returns the program that bash could not run and so ended, if the output tells.
func notRunOf(e sandbox.Exit, output string) string {
	if e.Signal != 0 || e.Code != notFound && e.Code != notExecutable {
		return ""
	}
	found := notRun.FindAllStringSubmatch(output, -1)
	if found == nil {
		return ""
	}
	return found[len(found)-1][1]
}

// howEnded returns how a program ended; missing is the part of it that could not be run, if known.
func howEnded(what string, e sandbox.Exit, missing string) string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s was ended by signal %d (%v)", what, int(e.Signal), e.Signal)
	}
	s := fmt.Sprintf("%s ended with exit code %d", what, e.Code)
	switch {
	case missing == "":
	case e.Code == notFound:
		s += ": " + sieve.Beginning(missing, 200) + " was not found"
	default:
		s += ": " + sieve.Beginning(missing, 200) + " could not be executed"
	}
	return s
}
