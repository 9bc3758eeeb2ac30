package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nofx.dev/gateway/api"
)

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Make, list and revoke API keys", a.keyCreateCommand(), a.keyListCommand(), a.keyRevokeCommand())
}

func (a *app) keyCreateCommand() *cobra.Command {
	var role string
	var scopes []string
	var expires time.Duration
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an API key; its secret is shown only once",
		Long: `Make an API key: for a person with a role, or for a machine with scopes. Machines
never decide gates. The secret is shown only once. This needs the role admin.

Each role includes the ones before it:
  viewer      reads
  operator    starts, steers and retries runs, sends signals, uploads files
  supervisor  decides gates
  admin       makes and revokes keys, pauses queues
A scope is NOUN:read or NOUN:write, such as runs:write.`,
		Example: `  nofx key create alice --role supervisor
  nofx key create ci --scope runs:write,runs:read,events:read --expires 2160h`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (role == "") == (len(scopes) == 0) {
				return usagef("give either --role or --scope")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			request := api.APIKeyRequest{Name: args[0], Role: optional(api.APIKeyRequestRole(role)), Scopes: scopes}
			if expires != 0 {
				request.ExpiresAt = optional(a.now().Add(expires).UTC())
			}
			created, raw, err := call[api.CreatedAPIKey](client.CreateAPIKey(cmd.Context(), request))
			if err != nil {
				return err
			}
			err = a.answer(raw, func(w io.Writer) {
				fmt.Fprintf(a.errOut, "%s (%s); the secret is shown only once:\n", created.Key.ID, created.Key.Role)
				fmt.Fprintln(w, created.Secret)
			})
			if err != nil {
				err = fmt.Errorf("%s was created, but its secret could not be printed: %w\nto revoke it: %s key revoke %s", created.Key.ID, err, a.self(), created.Key.ID)
			}
			return err
		},
	}
	c.Flags().StringVar(&role, "role", "", "role of the key")
	oneOf(c, "role", api.RoleViewer, api.RoleOperator, api.RoleSupervisor, api.RoleAdmin)
	c.Flags().StringSliceVar(&scopes, "scope", nil, "right of a machine, such as runs:write; may be repeated")
	c.Flags().DurationVar(&expires, "expires", 0, "lifetime of the key (default: for ever)")
	return c
}

func (a *app) keyListCommand() *cobra.Command {
	var cursor string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List API keys, newest first, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			page, raw, err := call[api.APIKeyPage](client.ListAPIKeys(cmd.Context(), &api.ListAPIKeysParams{Cursor: optional(cursor), Limit: optional(limit)}))
			if err != nil {
				return err
			}
			return a.answer(raw, func(w io.Writer) {
				rows := make([][]string, len(page.Items))
				for i, k := range page.Items {
					rows[i] = []string{k.ID, k.Name, string(k.Role), strings.Join(k.Scopes, ","), k.Prefix, a.keyStatus(k), clock(k.LastUsedAt)}
				}
				a.table(w, []string{"KEY", "NAME", "ROLE", "SCOPES", "PREFIX", "STATUS", "LAST USED"}, rows, "PREFIX", "LAST USED", "SCOPES")
				nextPage(w, page.NextCursor)
			})
		},
	}
	pageFlags(c, &limit, &cursor)
	return c
}

func (a *app) keyStatus(k api.APIKey) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt == nil:
		return "good"
	case k.ExpiresAt.Before(a.now()):
		return "expired"
	}
	return "valid until " + clock(k.ExpiresAt)
}

func (a *app) keyRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke KEY",
		Short: "Revoke an API key",
		Long:  "Revoke an API key. KEY is the id or the name of a live key.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			key, err := keyID(cmd.Context(), client, args[0])
			if err != nil {
				return err
			}
			if _, _, err := call[struct{}](client.RevokeAPIKey(cmd.Context(), key)); err != nil {
				return err
			}
			if !a.json { // the answer has no body
				fmt.Fprintf(a.out, "%s revoked\n", key)
			}
			return nil
		},
	}
}

var keyShape = regexp.MustCompile(`^key_[0-9a-f]{32}$`)

// keyID returns the id of a key, given by its id or, if the key is live, by its name.
func keyID(ctx context.Context, c *api.Client, name string) (api.KeyID, error) {
	if keyShape.MatchString(name) {
		return name, nil
	}
	var params api.ListAPIKeysParams
	for {
		page, _, err := call[api.APIKeyPage](c.ListAPIKeys(ctx, &params))
		if err != nil {
			return "", err
		}
		for _, k := range page.Items {
			if k.RevokedAt == nil && strings.EqualFold(k.Name, name) {
				return k.ID, nil
			}
		}
		if page.NextCursor == nil {
			return "", fmt.Errorf("%w: no live key has the id or the name %q", errNotFound, name)
		}
		params.Cursor = page.NextCursor
	}
}
