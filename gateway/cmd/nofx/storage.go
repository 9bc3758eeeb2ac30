package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) gcCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:   "gc",
		Short: "Delete stored bytes that no checkpoint needs",
		Long: `Have a worker delete from storage what no checkpoint of your tenant needs: content that no
checkpoint names is condemned once nobody has used it for a day, and deleted a day later,
and so are objects that a crash has left, and old uploads that no run needs. This happens
by itself once a day. With --dry-run nothing is deleted, and what would be is listed. This
needs the role admin.`,
		Example: "  nofx gc --dry-run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			key := rand.Text()
			done, raw, err := await(cmd.Context(), a, "collecting", func() (*http.Response, error) {
				return client.CollectGarbage(cmd.Context(), &api.CollectGarbageParams{IdempotencyKey: &key}, api.GCRequest{DryRun: &dry})
			}, func(g api.GCAnswer) string {
				if g.Collection != nil {
					return ""
				}
				return g.GcRunID
			})
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printCollection(w, *done.Collection) })
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "delete nothing, and list what would be deleted")
	return c
}

// counts returns a count as text, such as "3 (12.0 KiB)".
func counts(c api.Count) string {
	if c.N == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", c.N, size(c.Bytes))
}

func (a *app) printCollection(w io.Writer, r api.GCReport) {
	var lost string
	if r.Lost > 0 {
		lost = fmt.Sprintf("%d contents, see nofx storage verify", r.Lost)
	}
	condemned, done, rewritten := "condemned", "deleted", "rewritten"
	if r.DryRun {
		condemned, done, rewritten = "to condemn", "to delete", "to rewrite"
	}
	facts(w,
		"checkpoints", fmt.Sprint(r.Checkpoints), "in use", counts(r.Named), condemned, counts(r.Condemned),
		done, counts(r.Deleted), "artifacts "+done, counts(r.Artifacts), "packs "+rewritten, counts(r.Rewritten), "objects "+done, counts(r.Objects), "orphans "+done, counts(r.Orphans),
		"uploads ended", fmt.Sprint(r.Uploads), "lost", lost)
	a.printItems(w, r.Items, r.ItemsTruncated)
}

// printItems lists the items of a report.
func (a *app) printItems(w io.Writer, items []api.StorageItem, truncated bool) {
	if len(items) == 0 {
		return
	}
	rows := make([][]string, len(items))
	for i, it := range items {
		rows[i] = []string{string(it.Kind), it.What, size(it.Bytes), it.ID}
	}
	fmt.Fprintln(w)
	a.table(w, []string{"KIND", "WHAT", "SIZE", "ID"}, rows, "SIZE", "KIND")
	if truncated {
		fmt.Fprintf(w, "and more; the first %d are listed\n", len(items))
	}
}

func (a *app) storageCommand() *cobra.Command {
	return group("storage", "Compare rows and stored objects", a.storageVerifyCommand())
}

func (a *app) storageVerifyCommand() *cobra.Command {
	var deep bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Find stored objects that are missing, corrupt or without a row",
		Long: `Have a worker compare every row of your tenant with the objects in storage: objects that are
missing, of another size than was stored, or without a row. With --deep it reads every byte
and compares digests. An object without a row is no damage: the collection deletes it within
two days. This needs the role admin. The exit code is 1 if something is missing or corrupt.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			key := rand.Text()
			done, raw, err := await(cmd.Context(), a, "comparing", func() (*http.Response, error) {
				return client.VerifyStorage(cmd.Context(), &api.VerifyStorageParams{IdempotencyKey: &key}, api.VerifyStorageRequest{Deep: &deep})
			}, func(v api.VerifyStorageAnswer) string {
				if v.Verification != nil {
					return ""
				}
				return v.VerifyRunID
			})
			if err != nil {
				return err
			}
			v := *done.Verification
			if err := a.answer(raw, func(w io.Writer) {
				facts(w, "objects", counts(v.Objects), "missing", counts(v.Missing), "corrupt", counts(v.Corrupt),
					"blobs without object", fmt.Sprint(v.Unbacked), "objects without row", counts(v.Orphans))
				a.printItems(w, v.Items, v.ItemsTruncated)
			}); err != nil {
				return err
			}
			if n := v.Missing.N + v.Corrupt.N + v.Unbacked; n > 0 {
				return fmt.Errorf("%d objects or blobs are damaged", n)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&deep, "deep", false, "read every byte and compare digests")
	return c
}

func (a *app) blobCommand() *cobra.Command {
	return group("blob", "Delete stored content for good", a.blobPurgeCommand())
}

func (a *app) blobPurgeCommand() *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "purge SHA256 --reason REASON",
		Short: "Delete content for good, such as a secret that leaked into a file",
		Long: `Delete content for good, by its SHA-256: from then on every checkpoint and artifact that has it
answers that it was purged, and no later checkpoint stores it again. Stored diffs and archives
go as well, and are made anew without it. Logs that printed it stay, and so do plans and
files that contain it among other text. This needs the role admin.

There is no way back: on a terminal, the command asks before it deletes anything. Elsewhere
it needs --yes.`,
		Example: "  nofx blob purge $(sha256sum < .env | cut -d' ' -f1) --reason 'leaked credentials'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("give a reason: --reason '…'")
			}
			digest := strings.ToLower(strings.TrimPrefix(args[0], "sha256:"))
			if raw, err := hex.DecodeString(digest); err != nil || len(raw) != sha256.Size {
				return usagef("%q is no SHA-256 in hex digits", args[0])
			}
			if !yes {
				if err := a.confirmPurge(cmd.Context(), digest); err != nil {
					return err
				}
			}
			client, err := a.patientClient(answerTimeout)
			if err != nil {
				return err
			}
			key := rand.Text()
			var status int
			done, raw, err := await(cmd.Context(), a, "deleting the bytes", func() (*http.Response, error) {
				resp, err := client.PurgeBlob(cmd.Context(), digest, &api.PurgeBlobParams{IdempotencyKey: &key}, api.PurgeRequest{Reason: &reason})
				if err == nil {
					status = resp.StatusCode
				}
				return resp, err
			}, func(p api.PurgeAnswer) string {
				if status == http.StatusOK {
					return ""
				}
				return p.PurgeRunID
			})
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				facts(w, "purged", done.Purge.Sha256, "by", done.Purge.By, "at", done.Purge.At.Format(time.RFC3339), "reason", done.Purge.Reason)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the tombstone")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// confirmPurge asks whether content is to be deleted for good.
func (a *app) confirmPurge(ctx context.Context, digest string) error {
	if a.ask == nil {
		return usagef("there is no way back, and no terminal to ask on: confirm with --yes")
	}
	answer, err := a.ask(ctx, fmt.Sprintf("Delete %s\nfor good? There is no way back. Type its first digits (4 or more), or y: ", digest))
	if err != nil {
		return err
	}
	switch answer = strings.ToLower(answer); {
	case answer == "y", answer == "yes", len(answer) >= 4 && strings.HasPrefix(digest, answer):
		return nil
	}
	return errors.New("not confirmed: nothing was deleted")
}
