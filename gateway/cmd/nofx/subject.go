package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) subjectCommand() *cobra.Command {
	return group("subject", "List and revoke callers that other issuers vouch for", a.subjectListCommand(), a.subjectRevokeCommand())
}

func (a *app) subjectListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the people and workflows whose tokens were seen, or revoked",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.TokenSubjectPage](client.ListSubjects(cmd.Context(), &api.ListSubjectsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, s := range page.Items {
					rows[i] = []string{s.Subject, deref(s.Name), clock(s.SeenAt), clock(s.RevokedBefore), deref(s.Reason)}
				}
				a.table(w, []string{"SUBJECT", "NAME", "LAST SEEN", "REVOKED BEFORE", "REASON"}, rows, "LAST SEEN", "REASON")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) subjectRevokeCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "revoke SUBJECT",
		Short: "Refuse the tokens of a person or workflow that were issued until now",
		Long: `Refuse the tokens of a person or workflow that were issued until now: for requests
within 5 seconds, for open streams within a minute. SUBJECT is user:… or oidc:…, as
"nofx subject list" and events show it. Tokens that are issued later are accepted: block
a user at the issuer, too. API keys are revoked by "nofx key revoke". This needs the role
admin.`,
		Example: `  nofx subject revoke user:0198c0de-7a2b-7c3d-8e4f-5a6b7c8d9e0f --reason "laptop stolen"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			done, raw, err := call[api.TokenSubjectAnswer](client.RevokeSubject(cmd.Context(), args[0], api.Reason{Reason: optional(reason)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(w, "tokens of %s that were issued before %s are refused\n", visible(who(done.Subject.Subject, done.Subject.Name)), clock(done.Subject.RevokedBefore))
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "the reason, stored with the subject")
	return c
}
