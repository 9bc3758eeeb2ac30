package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) repositoryCommand() *cobra.Command {
	return group("repository", "Let webhooks of forges start reviews",
		a.repositoryAddCommand(), a.repositoryListCommand(),
		a.repositoryChangeCommand("enable", "Have the webhook of a repository start reviews again", api.RepositoryChange{Enabled: new(true)}),
		a.repositoryChangeCommand("disable", "Skip what the webhook of a repository tells", api.RepositoryChange{Enabled: new(false)}),
		a.repositoryChangeCommand("rotate", "Give the webhook of a repository another secret; the one before is no longer valid", api.RepositoryChange{RotateSecret: new(true)}),
		a.repositoryRemoveCommand())
}

func (a *app) repositoryAddCommand() *cobra.Command {
	var project string
	c := &cobra.Command{
		Use:   "add OWNER/NAME",
		Short: "Let the webhook of a repository at GitHub start reviews",
		Long: `Let the webhook of a repository at GitHub start reviews of its pull requests. The command
prints what to enter at GitHub; the secret is shown this once. This needs the role admin.`,
		Example: "  nofx repository add acme/shop --project web",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			made, raw, err := call[api.RepositoryAnswer](client.CreateRepository(cmd.Context(), api.RepositoryRequest{Provider: api.RepositoryRequestProviderGithub, Name: args[0], Project: optional(project)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printRepository(w, made) })
		},
	}
	c.Flags().StringVar(&project, "project", "", "project of the runs (default: default)")
	return c
}

// printRepository prints a repository and, if it has a new secret, what to enter at the
// forge.
func (a *app) printRepository(w io.Writer, r api.RepositoryAnswer) {
	status := "enabled"
	if !r.Repository.Enabled {
		status = "disabled"
	}
	facts(w, "repository", r.Repository.ID, "name", r.Repository.Name, "project", r.Repository.Project, "webhook", status)
	if r.Webhook == nil {
		return
	}
	address, _, err := a.gateway()
	if err != nil {
		address = "" // it is known, since it has answered
	}
	fmt.Fprintln(w, "\nEnter at GitHub, Settings, Webhooks:")
	facts(w, "  payload URL", address+r.Webhook.Path, "  content type", "application/json", "  secret", r.Webhook.Secret, "  events", "Pull requests")
}

func (a *app) repositoryListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the repositories whose webhooks start reviews, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.RepositoryPage](client.ListRepositories(cmd.Context(), &api.ListRepositoriesParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, r := range page.Items {
					enabled := "yes"
					if !r.Enabled {
						enabled = "no"
					}
					rows[i] = []string{r.ID, string(r.Provider), r.Name, r.Project, enabled, clock(r.LastDeliveryAt), string(deref(r.LastResult))}
				}
				a.table(w, []string{"REPOSITORY", "FORGE", "NAME", "PROJECT", "ENABLED", "DELIVERED", "RESULT"}, rows, "FORGE", "PROJECT", "DELIVERED", "RESULT")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) repositoryChangeCommand(verb, short string, change api.RepositoryChange) *cobra.Command {
	return &cobra.Command{
		Use: verb + " REPOSITORY", Short: short,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRepository(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			changed, raw, err := call[api.RepositoryAnswer](client.ChangeRepository(cmd.Context(), args[0], nil, change))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printRepository(w, changed) })
		},
	}
}

func (a *app) repositoryRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove REPOSITORY", Short: "Forget a repository; its webhook is refused from then on",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRepository(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			_, raw, err := call[struct{}](client.DeleteRepository(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s removed\n", args[0]) })
		},
	}
}

// completeRepository offers the repositories.
func (a *app) completeRepository() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, _ string) (list []cobra.Completion) {
		page, _, err := call[api.RepositoryPage](c.ListRepositories(ctx, &api.ListRepositoriesParams{}))
		if err != nil {
			return nil
		}
		for _, r := range page.Items {
			list = append(list, described(r.ID, r.Name))
		}
		return list
	})
}
