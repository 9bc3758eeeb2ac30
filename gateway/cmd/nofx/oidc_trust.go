package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) oidcTrustCommand() *cobra.Command {
	return group("oidc-trust", "Let workflows of repositories start and read their reviews, without a key",
		a.oidcTrustCreateCommand(), a.oidcTrustListCommand(), a.oidcTrustDeleteCommand())
}

func (a *app) oidcTrustCreateCommand() *cobra.Command {
	var in api.OIDCTrustRequest
	var ref, workflow, event string
	c := &cobra.Command{
		Use:   "create OWNER/NAME",
		Short: "Trust the OIDC tokens of a repository's workflows on GitHub",
		Long: `Trust the OIDC tokens of a repository's workflows on GitHub: they may start and read
reviews of that repository alone. A repository is bound by its number and that of its
owner, because names are used again; "gh api repos/OWNER/NAME" shows both as id and
owner.id. With --ref, --workflow or --event, only tokens that say exactly that are
trusted. This needs the role admin.`,
		Example: `  nofx oidc-trust create acme/shop --repository-id 74 --owner-id 65
  nofx oidc-trust create acme/shop --repository-id 74 --owner-id 65 \
      --workflow acme/ci/.github/workflows/review.yml@refs/heads/main`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.RepositoryID == 0 || in.RepositoryOwnerID == 0 {
				return usagef("give --repository-id and --owner-id, the numbers that \"gh api repos/%s\" shows as id and owner.id", args[0])
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			in.Repository, in.Ref, in.JobWorkflowRef, in.EventName = args[0], optional(ref), optional(workflow), optional(event)
			made, raw, err := call[api.OIDCTrustAnswer](client.CreateOIDCTrust(cmd.Context(), in))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(w, "%s trusts workflows of %s\n", made.Trust.ID, visible(made.Trust.Repository))
			})
		},
	}
	c.Flags().Int64Var(&in.RepositoryID, "repository-id", 0, "number of the repository")
	c.Flags().Int64Var(&in.RepositoryOwnerID, "owner-id", 0, "number of its owner")
	c.Flags().StringVar(&ref, "ref", "", "ref of the workflow run, such as refs/heads/main (default: any)")
	c.Flags().StringVar(&workflow, "workflow", "", "workflow file with its ref (default: any)")
	c.Flags().StringVar(&event, "event", "", "event that started the workflow, such as pull_request (default: any)")
	return c
}

func (a *app) oidcTrustListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the repositories whose workflows are trusted, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.OIDCTrustPage](client.ListOIDCTrusts(cmd.Context(), &api.ListOIDCTrustsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, t := range page.Items {
					rows[i] = []string{t.ID, t.Repository, strconv.FormatInt(t.RepositoryID, 10), strconv.FormatInt(t.RepositoryOwnerID, 10), deref(t.Ref), deref(t.JobWorkflowRef), deref(t.EventName)}
				}
				a.table(w, []string{"TRUST", "REPOSITORY", "ID", "OWNER ID", "REF", "WORKFLOW", "EVENT"}, rows, "EVENT", "REF", "WORKFLOW")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) oidcTrustDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete TRUST",
		Short: "Take a trust back; its tokens are refused within 5 seconds",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if _, _, err := call[struct{}](client.DeleteOIDCTrust(cmd.Context(), args[0])); err != nil {
				return err
			}
			if !a.json { // the answer has no body
				fmt.Fprintf(a.out, "%s deleted\n", args[0])
			}
			return nil
		},
	}
}
