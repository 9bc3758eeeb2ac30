package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/audit"
)

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "List and verify the audit log", a.auditListCommand(), a.auditVerifyCommand())
}

func (a *app) auditListCommand() *cobra.Command {
	var act, actor, since, until, cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List who did what, newest first",
		Long: `List who did what that has consequences for others: decisions about gates and
findings, API keys, repositories, pauses of queues, requeued steps, purges,
collections, holds, signed URLs, and refused attempts at such acts. This needs the
role admin.`,
		Example: `  nofx audit list --act gate.approve --since 24h
  nofx audit list --act denied`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := moment("since", since, a.now())
			if err != nil {
				return err
			}
			to, err := moment("until", until, a.now())
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.AuditPage](client.ListAudit(cmd.Context(), &api.ListAuditParams{
				Act: optional(act), Actor: optional(actor), Since: from, Until: to, Cursor: optional(cursor), Limit: optional(limit),
			}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, r := range page.Items {
					who := r.Actor
					if r.ActorName != nil {
						who = *r.ActorName
					}
					rows[i] = []string{fmt.Sprint(r.Seq), clock(&r.At), who, r.Act, r.Object, deref(r.Reason), r.Via}
				}
				a.table(w, []string{"ROW", "AT", "WHO", "ACT", "OBJECT", "REASON", "VIA"}, rows, "VIA", "REASON", "AT")
				nextPage(w, page.NextCursor)
			})
		},
	}
	c.Flags().StringVar(&act, "act", "", "only this act, such as gate.approve")
	c.Flags().StringVar(&actor, "actor", "", "only of this subject, as key:HEX")
	c.Flags().StringVar(&since, "since", "", "only at this time or later: a time, a date, or how long ago, such as 7d")
	c.Flags().StringVar(&until, "until", "", "only before this time")
	oneOf(c, "since", "1h", "24h", "7d", "30d")
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) auditVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Verify that no row of the audit log was changed or removed",
		Long: `Verify that no row of the audit log was changed or removed: the hash of each row is
computed again from what the row says, and compared with the row after it and with
the heads of the log that workers store beside the database each day. The first row
that is not what was written is named, and the exit code is 1. This needs the role
admin.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			anchors, _, err := call[api.AuditAnchorList](client.ListAuditAnchors(cmd.Context()))
			if err != nil {
				return err
			}
			rows, err := verifyLog(cmd.Context(), client, anchors.Items)
			if err != nil {
				return err
			}
			if !a.json { // there is no one answer
				_, err = fmt.Fprintln(a.out, verified(rows, anchors.Items))
			}
			return err
		},
	}
}

// verifyLog reads the whole log and returns the number of its rows, or what is wrong.
func verifyLog(ctx context.Context, c *api.Client, anchors []api.AuditAnchor) (rows int64, err error) {
	limit := 200
	params := &api.ListAuditParams{Limit: &limit}
	var chain *audit.Chain
	for {
		page, _, err := call[api.AuditPage](c.ListAudit(ctx, params))
		if err != nil {
			return 0, err
		}
		if chain == nil {
			chain = audit.NewChain(page.TenantID, anchors)
		}
		for _, r := range page.Items {
			chain.Add(r)
		}
		if page.NextCursor == nil {
			return chain.End()
		}
		params.Cursor = page.NextCursor
	}
}

func verified(rows int64, anchors []api.AuditAnchor) string {
	text := fmt.Sprintf("%d rows, as they were written", rows)
	if len(anchors) == 0 {
		return text + "; none is stored beside the database yet, so that rows missing at the end would not show"
	}
	return fmt.Sprintf("%s; stored beside the database: row %d, on %s", text, anchors[0].Seq, anchors[0].Day)
}
