package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) checkpointCommand() *cobra.Command {
	return group("checkpoint", "Make and look into the checkpoints of a run",
		a.checkpointListCommand(), a.checkpointShowCommand(), a.checkpointDiffCommand(), a.checkpointFilesCommand(), a.checkpointCatCommand(),
		a.checkpointCreateCommand(), a.checkpointLabelCommand(), a.checkpointHoldCommand(), a.checkpointArchiveCommand(), a.checkpointBisectCommand())
}

func (a *app) checkpointListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:               "list RUN",
		Short:             "List the checkpoints of a run, oldest first",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.CheckpointPage](client.ListCheckpoints(cmd.Context(), args[0],
				&api.ListCheckpointsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			var names map[api.StepID]string
			if !a.json {
				d, _, err := call[api.RunDetail](client.GetRun(cmd.Context(), args[0]))
				if err != nil {
					return err
				}
				names = stepNames(d)
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, c := range page.Items {
					rows[i] = []string{strconv.FormatInt(c.Seq, 10), c.ID, string(c.Kind), names[deref(c.StepID)], clock(&c.CreatedAt), size(c.BytesNew), held(c), deref(c.Label)}
				}
				a.table(w, []string{"SEQ", "CHECKPOINT", "KIND", "STEP", "CREATED", "NEW", "HOLD", "LABEL"}, rows, "CREATED", "NEW", "HOLD")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) checkpointShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show RUN CHECKPOINT",
		Short:             "Show a checkpoint: digests, parents, manifest and its stored objects",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			d, raw, err := call[api.CheckpointDetail](client.GetCheckpoint(cmd.Context(), args[0], args[1]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				facts(w, append(checkpointFacts(d.Checkpoint), "manifest", string(d.Manifest))...)
				for _, o := range d.Objects {
					fmt.Fprintf(w, "\n%s %s, %s, until %s\n%s\n", o.Kind, o.Sha256, size(o.SizeBytes), clock(&o.ExpiresAt), o.URL)
				}
			})
		},
	}
}

// checkpointFacts returns the facts about a checkpoint, by name.
func checkpointFacts(c api.Checkpoint) []string {
	return []string{"checkpoint", c.ID, "kind", string(c.Kind), "seq", strconv.FormatInt(c.Seq, 10), "step", deref(c.StepID),
		"digest", c.Digest, "state", c.StateDigest, "tree", c.TreeDigest, "parents", strings.Join(c.Parents, " "),
		"new", size(c.BytesNew), "created", clock(&c.CreatedAt), "label", deref(c.Label), "hold", held(c)}
}

// held returns "yes" for a held checkpoint.
func held(c api.Checkpoint) string {
	if c.Hold {
		return "yes"
	}
	return ""
}

func (a *app) checkpointFilesCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:               "files RUN CHECKPOINT [FOLDER]",
		Short:             "List one folder of a checkpoint's workspace",
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			params := api.ListCheckpointFilesParams{Cursor: optional(cursor), Limit: optional(limit)}
			if len(args) == 3 {
				params.Path = optional(args[2])
			}
			page, raw, err := call[api.FilePage](client.ListCheckpointFiles(cmd.Context(), args[0], args[1], &params))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, f := range page.Items {
					name, bytes := f.Path, ""
					if f.SizeBytes != nil {
						bytes = size(*f.SizeBytes)
					} else {
						name += "/"
					}
					rows[i] = []string{string(f.Mode), bytes, strings.TrimPrefix(f.Digest, "sha256:"), name}
				}
				a.table(w, []string{"MODE", "SIZE", "SHA256", "PATH"}, rows, "SHA256", "SIZE", "MODE")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) checkpointCatCommand() *cobra.Command {
	var raw bool
	c := &cobra.Command{
		Use:   "cat RUN CHECKPOINT FILE",
		Short: "Print one file of a checkpoint's workspace",
		Long: `Print one file of a checkpoint's workspace. A file or a pipe gets the bytes unchanged. On a
terminal, control characters other than colours are shown, not obeyed, and bytes that are
not UTF-8 are shown as U+FFFD.`,
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			resp, err := client.GetCheckpointFile(cmd.Context(), args[0], args[1], &api.GetCheckpointFileParams{Path: args[2]})
			if err != nil {
				return err
			}
			return a.foreign(raw, func(w io.Writer) error {
				_, err := copyBytes(w, resp)
				return err
			})
		},
	}
	rawFlag(c, &raw)
	return c
}
