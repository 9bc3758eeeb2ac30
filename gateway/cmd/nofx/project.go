package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) projectCommand() *cobra.Command {
	return group("project", "List, make and delete projects, which runs belong to", a.projectListCommand(), a.projectCreateCommand(), a.projectDeleteCommand())
}

func (a *app) projectListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the projects of the tenant, by name",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.ProjectPage](client.ListProjects(cmd.Context(), &api.ListProjectsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, p := range page.Items {
					rows[i] = []string{p.Slug, clock(&p.CreatedAt)}
				}
				a.table(w, []string{"PROJECT", "CREATED"}, rows)
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) projectCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create SLUG",
		Short: "Make a project, for --project of other commands",
		Long: `Make a project, for --project of other commands. Its name has small letters, digits and
hyphens, at most 63. This needs the role admin.`,
		Example: "  nofx project create web",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			made, raw, err := call[api.ProjectAnswer](client.CreateProject(cmd.Context(), api.ProjectRequest{Slug: args[0]}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s created\n", made.Project.Slug) })
		},
	}
}

func (a *app) projectDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete SLUG",
		Short: "Delete a project that has neither runs nor repositories",
		Long: `Delete a project that has neither runs nor repositories. The project default cannot be
deleted. This needs the role admin.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeProject(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			_, raw, err := call[struct{}](client.DeleteProject(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s deleted\n", args[0]) })
		},
	}
}

// completeProject offers the projects.
func (a *app) completeProject() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, _ string) (list []cobra.Completion) {
		page, _, err := call[api.ProjectPage](c.ListProjects(ctx, &api.ListProjectsParams{}))
		if err != nil {
			return nil
		}
		for _, p := range page.Items {
			list = append(list, p.Slug)
		}
		return list
	})
}
