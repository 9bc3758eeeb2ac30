package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) secretCommand() *cobra.Command {
	return group("secret", "Set, list and delete secrets for steps of plans", a.secretListCommand(), a.secretSetCommand(), a.secretDeleteCommand())
}

func (a *app) secretListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the secrets of the tenant, by name, without what they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.SecretPage](client.ListSecrets(cmd.Context(), &api.ListSecretsParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, s := range page.Items {
					rows[i] = []string{s.Name, strconv.FormatInt(s.Version, 10), clock(&s.CreatedAt), clock(&s.UpdatedAt)}
				}
				a.table(w, []string{"SECRET", "VERSION", "CREATED", "UPDATED"}, rows, "CREATED")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) secretSetCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Set a secret to the content of a file, or of standard input",
		Long: `Set a secret to the content of a file, or of standard input; one line end at its end is not
part of it. On a terminal, the command asks for it. A plan names its secrets in
policy.secrets, and a step that needs one in its input "secrets"; it gets the secret in the
variable NAME. This needs the role admin.`,
		Example: `  nofx secret set REGISTRY_TOKEN < token
  nofx secret set DEPLOY_KEY --file id_ed25519`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeSecret(),
		RunE: func(cmd *cobra.Command, args []string) error {
			value, err := a.readSecret(args[0], file)
			if err != nil {
				return err
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			set, raw, err := call[api.SecretAnswer](client.SetSecret(cmd.Context(), args[0], nil, api.SecretRequest{Value: value}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s is set (version %d)\n", set.Secret.Name, set.Secret.Version) })
		},
	}
	c.Flags().StringVar(&file, "file", "-", "file with the secret, - for standard input")
	fileFlag(c, "file")
	return c
}

// readSecret returns a secret from a file, from standard input, or as it is typed.
func (a *app) readSecret(name, file string) (string, error) {
	if file == "-" && a.prompt != nil {
		return a.prompt("value of " + clean(name) + ": ")
	}
	raw, err := a.readFile(file)
	if err != nil {
		return "", usagef("the secret: %w", err)
	}
	if !utf8.Valid(raw) {
		return "", usagef("the secret is not UTF-8; encode it, for example as base64")
	}
	value := string(raw)
	if line, ok := strings.CutSuffix(value, "\n"); ok {
		value = strings.TrimSuffix(line, "\r")
	}
	return value, nil
}

func (a *app) secretDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a secret; steps of runs whose plan names it fail from then on",
		Args:  cobra.ExactArgs(1), ValidArgsFunction: a.completeSecret(),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			_, raw, err := call[struct{}](client.DeleteSecret(cmd.Context(), args[0]))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) { fmt.Fprintf(w, "%s deleted\n", args[0]) })
		},
	}
}

// completeSecret offers the secrets.
func (a *app) completeSecret() completion {
	return a.asks(1, func(ctx context.Context, c *api.Client, _ []string, _ string) (list []cobra.Completion) {
		page, _, err := call[api.SecretPage](c.ListSecrets(ctx, &api.ListSecretsParams{}))
		if err != nil {
			return nil
		}
		for _, s := range page.Items {
			list = append(list, s.Name)
		}
		return list
	})
}
