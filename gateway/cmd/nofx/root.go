package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit codes, documented by `nofx --help`.
const (
	exitOK         = 0
	exitFailed     = 1
	exitUsage      = 2
	exitRun        = 3
	exitNotFound   = 4
	exitRefused    = 5
	exitBlocked    = 6
	exitNoVerdict  = 7
	exitSuperseded = 8
	exitTimeout    = 9
	exitStopped    = 130
)

const about = `nofx starts runs of plans on a NOFX gateway, watches them, decides their gates,
has changes reviewed, and shows logs, checkpoints and artifacts.

The gateway's address and the key for it are taken from the first of:
  address  --url, NOFX_URL, the login
  key      NOFX_API_KEY, the file named by NOFX_API_KEY_FILE, the login, and in a
           GitHub workflow with the permission id-token: write a token that GitHub
           gives for each request, with the audience NOFX_OIDC_AUDIENCE ("nofx")
The login is nofx/config.json in your configuration folder, written by
"nofx login", and by "stack up" for the local stack. Its key is sent only to its
own address.

On a terminal, tables leave out columns or cut texts that do not fit. A file or a pipe
gets all of them, whole.

Exit codes:
  0    done
  1    an error on the way: no connection, an error of the gateway, output that
       could not be written
  2    wrong usage: a flag, an argument, the configuration, a file that is not JSON
  3    the watched run failed or was cancelled
  4    not found
  5    the gateway refused: key, role, plan, or not possible now
  6    the review failed: findings block the change; or a figure is too low
  7    the review, or one of a corpus, ended in error or without a verdict
  8    the review was superseded by that of a newer head
  9    the review was not over in time
  130  stopped by Ctrl-C`

const examples = `  nofx run create -f plan.json --watch
  git diff main | nofx review start --diff - --wait
  nofx gate list
  nofx gate approve gate_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f
  nofx logs run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f/build -f`

// app has the streams and environment of the process, which tests replace, and the global
// flags.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	getenv      func(string) string
	configDir   func() (string, error)
	now         func() time.Time
	pause       func(context.Context, time.Duration) error
	terminal    bool                                                       // out is one
	screen      func() (width, height int)                                 // nil unless out is a terminal that can be drawn on
	look        time.Duration                                              // interval of reads while following, for facts that events do not have; 0: never
	stall       time.Duration                                              // how long nothing may come from a server
	prompt      func(question string) (string, error)                      // for a secret; nil unless in is a terminal
	ask         func(ctx context.Context, question string) (string, error) // for a line; nil unless in is a terminal

	output *checkedWriter // out, once a command line is executed
	noting sync.Mutex     // held by note

	url  string
	json bool
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, a *app, args []string) int {
	a.output = &checkedWriter{w: a.out}
	a.out = a.output
	begun := false
	root := &cobra.Command{
		Use:     "nofx",
		Short:   "Start, watch and decide runs on a NOFX gateway",
		Long:    about,
		Example: examples,
		Version: version(),
		Args:    noCommand, SuggestionsMinimumDistance: 2,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(c *cobra.Command, args []string) error {
			if err := c.ValidateFlagGroups(); err != nil { // cobra does it later, when its errors look like ours
				return err
			}
			if err := textOnly(c, args); err != nil {
				return err
			}
			begun = true
			return nil
		},
	}
	root.PersistentFlags().StringVar(&a.url, "url", "", "address of the gateway")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print the gateway's response as JSON, unchanged")
	root.AddCommand(a.runCommand(), a.logsCommand(), a.gateCommand(), a.signalCommand(), a.dlqCommand(), a.checkpointCommand(), a.branchCommand(), a.mergeCommand(),
		a.reviewCommand(), a.repositoryCommand(), a.artifactCommand(), a.eventsCommand(), a.traceCommand(), a.queueCommand(), a.workerCommand(), a.gcCommand(), a.storageCommand(), a.blobCommand(), a.projectCommand(), a.secretCommand(), a.settingsCommand(), a.alertCommand(), a.keyCommand(), a.subjectCommand(), a.oidcTrustCommand(), a.auditCommand(), a.loginCommand(), a.whoamiCommand())
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)

	command, err := root.ExecuteContextC(ctx)
	if lost := a.output.err; lost != nil && err == nil {
		err = lost
	} else if lost != nil && !errors.Is(err, lost) {
		fmt.Fprintf(a.errOut, "error: %v\n", lost)
	}
	if err != nil && !begun && a.output.err == nil {
		if strings.HasPrefix(err.Error(), "accepts ") { // the error has their number, not their names
			err = fmt.Errorf("%w: %s", err, command.UseLine())
		}
		err = usageError{err} // cobra refused the line before any command saw it
	}
	return a.report(ctx, command, err)
}

// report prints what went wrong and returns the exit code for it.
func (a *app) report(ctx context.Context, command *cobra.Command, err error) int {
	var usage usageError
	var problem *problemError
	var ended endedError
	var verdict verdictError
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		return exitStopped
	case errors.As(err, &ended):
		return exitRun // the run's end is on the screen already
	case errors.As(err, &verdict):
		return verdict.code // and so is the review's
	case errors.As(err, &problem):
		problem.print(a.errOut, a.json)
		if problem.Status == http.StatusNotFound {
			return exitNotFound
		}
		if problem.Status < http.StatusInternalServerError && problem.Status != http.StatusTooManyRequests {
			return exitRefused
		}
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintf(a.errOut, "error: %s\nSee '%s --help'.\n", visible(err.Error()), command.CommandPath())
		return exitUsage
	case errors.Is(err, errNotFound):
		fmt.Fprintf(a.errOut, "error: %s\n", visible(err.Error()))
		return exitNotFound
	}
	fmt.Fprintf(a.errOut, "error: %s\n", visible(err.Error()))
	return exitFailed
}

// localFiles annotates commands whose arguments are names of local files.
const localFiles = "local-files"

// fileFlag marks a flag whose value is the name of a local file.
func fileFlag(c *cobra.Command, name string) {
	if err := c.MarkFlagFilename(name); err != nil {
		panic(err) // no such flag: a mistake in this program
	}
}

// textOnly refuses arguments and values of flags that are not UTF-8: the request could only
// hold other characters in their place. Names of local files may have any bytes.
func textOnly(c *cobra.Command, args []string) (err error) {
	check := func(what string, values ...string) {
		for _, v := range values {
			if err == nil && !utf8.ValidString(v) {
				err = usagef("%s is not UTF-8: %q", what, v)
			}
		}
	}
	if _, files := c.Annotations[localFiles]; !files {
		check("an argument", args...)
	}
	c.Flags().Visit(func(f *pflag.Flag) {
		_, file := f.Annotations[cobra.BashCompFilenameExt]
		switch list, several := f.Value.(pflag.SliceValue); {
		case file:
		case several:
			check("--"+f.Name, list.GetSlice()...)
		default:
			check("--"+f.Name, f.Value.String())
		}
	})
	return err
}

// version returns the version of this build: a release, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (info.Main.Version == "" || info.Main.Version == "(devel)") {
			return s.Value
		}
	}
	return cmp.Or(info.Main.Version, "unknown")
}

// usageError is a mistake in the command line or the configuration.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errNotFound is the kind of errors for things that the CLI itself did not find.
var errNotFound = errors.New("not found")

// group returns a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: noCommand, SuggestionsMinimumDistance: 2,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(commands...)
	return c
}

// noCommand returns the error of an unknown command, with the nearest known ones.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; did you mean: %s", err, strings.Join(append([]string{c.CommandPath(), near[0]}, args[1:]...), " "))
	}
	return err
}

// didYouMean returns a hint in brackets with the name nearest to the typed text, or "".
func didYouMean(typed string, names []string) string {
	parent := &cobra.Command{SuggestionsMinimumDistance: 2}
	for _, name := range names {
		parent.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}}) // one that cannot run is not suggested
	}
	if near := parent.SuggestionsFor(typed); len(near) > 0 {
		return " (did you mean " + clean(near[0]) + "?)"
	}
	return ""
}

// oneOf offers the words that a flag takes to the shell's completion.
func oneOf[T ~string](c *cobra.Command, flag string, words ...T) {
	choices := make([]cobra.Completion, len(words))
	for i, w := range words {
		choices[i] = string(w)
	}
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag: a mistake in this program
	}
}

// anyOf completes a flag that takes several of the words, separated by commas.
func anyOf[T ~string](c *cobra.Command, flag string, words ...T) {
	if err := c.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := begun[:strings.LastIndex(begun, ",")+1]
		var choices []cobra.Completion
		for _, w := range words {
			if !slices.Contains(strings.Split(before, ","), string(w)) {
				choices = append(choices, before+string(w))
			}
		}
		return choices, cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic(err) // no such flag: a mistake in this program
	}
}
