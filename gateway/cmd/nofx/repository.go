package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) repositoryCommand() *cobra.Command {
	return group("repository", "Let webhooks of forges start reviews, and say how repositories are reviewed",
		a.repositoryAddCommand(), a.repositoryListCommand(), a.repositoryShowCommand(), a.repositorySetCommand(),
		a.repositoryChangeCommand("enable", "Have the webhook of a repository start reviews again", api.RepositoryChange{Enabled: new(true)}),
		a.repositoryChangeCommand("disable", "Skip what the webhook of a repository tells", api.RepositoryChange{Enabled: new(false)}),
		a.repositoryChangeCommand("rotate", "Give the webhook of a repository another secret; the one before is no longer valid", api.RepositoryChange{RotateSecret: new(true)}),
		a.repositoryRemoveCommand(), a.acceptToolsCommand())
}

func (a *app) repositoryAddCommand() *cobra.Command {
	var provider, project, policy, credential string
	c := &cobra.Command{
		Use:   "add OWNER/NAME",
		Short: "Let the webhook of a repository start reviews",
		Long: `Let the webhook of a repository start reviews of its pull requests. The command prints
what to enter at the forge; the secret is shown this once. This needs the role admin.

` + aboutPolicy,
		Example: `  nofx repository add acme/shop --project web
  nofx repository add acme/shop --provider bitbucket --policy review.yaml`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readPolicy(policy)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			made, raw, err := call[api.RepositoryAnswer](client.CreateRepository(cmd.Context(), api.RepositoryRequest{Provider: api.RepositoryRequestProvider(provider), Name: args[0], Project: optional(project), Policy: text, Credential: optional(credential)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { a.printRepository(w, made) })
		},
	}
	c.Flags().StringVar(&provider, "provider", string(api.RepositoryRequestProviderGithub), "github or bitbucket")
	oneOf(c, "provider", api.RepositoryRequestProviderGithub, api.RepositoryRequestProviderBitbucket)
	c.Flags().StringVar(&project, "project", "", "project of the runs (default: default)")
	policyFlag(c, &policy)
	credentialFlag(c, &credential)
	return c
}

// aboutPolicy describes the flag --policy.
const aboutPolicy = `A policy holds for all reviews of pull requests of the repository. Where their base has a
.nofx/review.yaml, that file comes first, and the policy says what the file leaves out.`

func policyFlag(c *cobra.Command, policy *string) {
	c.Flags().StringVar(policy, "policy", "", "file with the policy of its reviews, - for standard input")
	fileFlag(c, "policy")
}

func credentialFlag(c *cobra.Command, credential *string) {
	c.Flags().StringVar(credential, "credential", "", "name of the token to use on the forge, among those of the workers (default: their own)")
}

// readPolicy returns the policy in a file, or nil if none is named.
func (a *app) readPolicy(file string) (*string, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := a.readFile(file)
	if err != nil {
		return nil, usagef("the policy: %w", err)
	}
	if !utf8.Valid(raw) {
		return nil, usagef("the policy in %s is not UTF-8", file)
	}
	return new(string(raw)), nil
}

func (a *app) repositoryShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show REPOSITORY", Short: "Show a repository with its policy",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRepository(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			shown, raw, err := call[api.RepositoryAnswer](client.GetRepository(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				a.printRepository(w, shown)
				if p := shown.Repository.Policy; p != nil {
					fmt.Fprintln(w, "\npolicy, for what the .nofx/review.yaml of a base leaves out:")
					for line := range strings.Lines(*p) {
						fmt.Fprintf(w, "  %s\n", visible(strings.TrimRight(line, "\r\n")))
					}
				}
			})
		},
	}
}

func (a *app) repositorySetCommand() *cobra.Command {
	var project, policy, credential string
	var noPolicy, noCredential bool
	c := &cobra.Command{
		Use:   "set REPOSITORY",
		Short: "Change how a repository is reviewed",
		Long: `Change the policy of a repository's reviews, the token that they use on the forge, or the
project of the runs that its webhook starts. This needs the role admin.

` + aboutPolicy,
		Example: `  nofx repository set REPOSITORY --policy review.yaml
  nofx repository set REPOSITORY --no-policy`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeRepository(),
		RunE: func(cmd *cobra.Command, args []string) error {
			change := api.RepositoryChange{Project: optional(project)}
			text, err := a.readPolicy(policy)
			if err != nil {
				return err
			}
			change.Policy = textOrNull(text, noPolicy)
			change.Credential = textOrNull(optional(credential), noCredential)
			if project == "" && change.Policy == nil && change.Credential == nil {
				return usagef("say what to change: --policy, --no-policy, --credential, --no-credential or --project")
			}
			return a.changeRepository(cmd.Context(), args[0], change)
		},
	}
	policyFlag(c, &policy)
	c.Flags().BoolVar(&noPolicy, "no-policy", false, "remove the policy")
	credentialFlag(c, &credential)
	c.Flags().BoolVar(&noCredential, "no-credential", false, "use the workers' own token")
	c.Flags().StringVar(&project, "project", "", "project of the runs")
	c.MarkFlagsMutuallyExclusive("policy", "no-policy")
	c.MarkFlagsMutuallyExclusive("credential", "no-credential")
	return c
}

// textOrNull returns a text as JSON, null to remove it, or nothing.
func textOrNull(text *string, remove bool) json.RawMessage {
	if text == nil && !remove {
		return nil
	}
	raw, _ := json.Marshal(text) // a string always marshals
	return raw
}

// changeRepository changes a repository and prints it.
func (a *app) changeRepository(ctx context.Context, id string, change api.RepositoryChange) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	changed, raw, err := call[api.RepositoryAnswer](client.ChangeRepository(ctx, id, nil, change))
	if err != nil {
		return err
	}
	return a.answer(raw, func(w io.Writer) { a.printRepository(w, changed) })
}

// printRepository prints a repository and, if it has a new secret, what to enter at the
// forge.
func (a *app) printRepository(w io.Writer, r api.RepositoryAnswer) {
	status := "enabled"
	if !r.Repository.Enabled {
		status = "disabled"
	}
	policy := "default"
	if r.Repository.Policy != nil {
		policy = "own"
	}
	facts(w, "repository", r.Repository.ID, "forge", string(r.Repository.Provider), "name", r.Repository.Name, "project", r.Repository.Project, "webhook", status, "policy", policy, "credential", deref(r.Repository.Credential))
	if r.Webhook == nil {
		return
	}
	address, _, err := a.address()
	if err != nil {
		address = "" // it is known, since it has answered
	}
	if r.Repository.Provider == api.RepositoryProviderBitbucket {
		fmt.Fprintln(w, "\nEnter at Bitbucket, Repository settings, Webhooks:")
		facts(w, "  URL", address+r.Webhook.Path, "  secret", r.Webhook.Secret, "  triggers", "Pull request: Created, Updated, Comment resolved, Comment reopened")
		return
	}
	fmt.Fprintln(w, "\nEnter at GitHub, Settings, Webhooks:")
	facts(w, "  payload URL", address+r.Webhook.Path, "  content type", "application/json", "  secret", r.Webhook.Secret, "  events", "Pull requests, Pull request review threads")
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
			return a.changeRepository(cmd.Context(), args[0], change)
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

func (a *app) acceptToolsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "accept-tools FORGE", Short: "Accept what the MCP server of a forge announces by now",
		Long: `Accept what the MCP server of a forge, github or bitbucket, announces by now. Reviews fail
when it announces other tools than before at the same version, since somebody may have put
another server in its place: look at it first. This needs the role admin.`,
		Example: "  nofx repository accept-tools github",
		Args:    cobra.ExactArgs(1), ValidArgs: []cobra.Completion{"github", "bitbucket"},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			_, raw, err := call[struct{}](client.AcceptTools(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(w, "what the server of %s announces to the next review is accepted\n", args[0])
			})
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
