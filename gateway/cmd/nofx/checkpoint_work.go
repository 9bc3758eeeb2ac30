package main

import (
	"context"
	"crypto/rand"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) checkpointCreateCommand() *cobra.Command {
	var label string
	c := &cobra.Command{
		Use:   "create RUN",
		Short: "Make a checkpoint of what a run's finished steps have left",
		Long: `Make a checkpoint of what the finished steps of a run have left by now, all together. A
worker makes it, and the run goes on as if it were not there.`,
		Example:           "  nofx checkpoint create run_0198c0de7a2b7c3d8e4f5a6b7c8d9e0f --label 'before the migration'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeRun(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			key := rand.Text()
			made, raw, err := await(cmd.Context(), a, "making it", func() (*http.Response, error) {
				return client.CreateCheckpoint(cmd.Context(), args[0], &api.CreateCheckpointParams{IdempotencyKey: &key}, api.CheckpointRequest{Label: optional(label)})
			}, func(c api.CreatedCheckpoint) string {
				if c.Checkpoint != nil {
					return ""
				}
				return c.CheckpointRunID
			})
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { facts(w, checkpointFacts(*made.Checkpoint)...) })
		},
	}
	c.Flags().StringVar(&label, "label", "", "name that people find the checkpoint by")
	return c
}

func (a *app) checkpointLabelCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "label RUN CHECKPOINT LABEL",
		Short:             "Name a checkpoint; an empty LABEL removes the name",
		Args:              cobra.ExactArgs(3),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.mark(cmd.Context(), args[0], args[1], api.CheckpointMark{Label: &args[2]})
		},
	}
}

func (a *app) checkpointHoldCommand() *cobra.Command {
	var reason string
	var release bool
	c := &cobra.Command{
		Use:               "hold RUN CHECKPOINT --reason REASON",
		Short:             "Keep a checkpoint beyond its retention, or end that",
		Long:              "Keep a checkpoint, with its run, until the hold is released. Needs the role supervisor.",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("give a reason: --reason '…'")
			}
			hold := !release
			return a.mark(cmd.Context(), args[0], args[1], api.CheckpointMark{Hold: &hold, Reason: &reason})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the run's events")
	c.Flags().BoolVar(&release, "release", false, "end the hold")
	return c
}

// mark changes a checkpoint's label or hold and answers with the checkpoint.
func (a *app) mark(ctx context.Context, run, checkpoint string, m api.CheckpointMark) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	got, raw, err := call[api.CheckpointAnswer](client.MarkCheckpoint(ctx, run, checkpoint, m))
	if err != nil {
		return err
	}
	return a.answer(raw, func(w io.Writer) { facts(w, checkpointFacts(got.Checkpoint)...) })
}

func (a *app) checkpointArchiveCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "archive RUN CHECKPOINT",
		Short: "Download the workspace of a checkpoint as tar.gz",
		Long: `Have a worker pack the workspace of a checkpoint, and download the archive as "artifact
download" does, to RUN-SEQ.tar.gz or the file given by -o.`,
		Example:           "  nofx checkpoint archive RUN CHECKPOINT -o - | tar xz",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeCheckpoint(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			packed, _, err := await(cmd.Context(), a, "packing it", func() (*http.Response, error) {
				return client.ArchiveCheckpoint(cmd.Context(), args[0], args[1], nil, api.ArchiveCheckpointJSONRequestBody{})
			}, func(c api.CheckpointArchive) string {
				if c.Artifact != nil {
					return ""
				}
				return c.ArchiveRunID
			})
			if err != nil {
				return err
			}
			return a.downloadArtifact(cmd.Context(), client, packed.Artifact.ID, output)
		},
	}
	a.outputFlag(c, &output)
	return c
}
