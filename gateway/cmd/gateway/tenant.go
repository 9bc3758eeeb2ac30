package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"nofx.dev/gateway/internal/httpapi"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

const tenantUsage = `usage: gateway tenant list
       gateway tenant create SLUG [--key] [--name NAME]

Lists the tenants, or makes one with a project "default" and prints an API key with the
role admin. The key is shown only once. DATABASE_URL must have an administrator's login,
since the gateway's own role may not make tenants.

  --key        makes another admin key for a tenant that exists, for example because
               the first key was lost
  --name NAME  name of the key; no live key of the tenant may have it. The default is
               "admin", or with --key "admin-" and the end of the key's id
`

// keyNameMost is how many characters the name of a key has at the most.
const keyNameMost = 200

// tenant runs `gateway tenant`.
func tenant(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if asksHelp(args) {
		_, err := io.WriteString(stdout, tenantUsage)
		return err
	}
	flags := flagSet("gateway tenant", tenantUsage, stderr)
	further := flags.Bool("key", false, "")
	name := flags.String("name", "", "")
	verb, slug := "", ""
	rest := args
	if len(rest) > 0 {
		verb, rest = rest[0], rest[1:]
	}
	if verb == "create" && len(rest) > 0 && rest[0] != "" && rest[0][0] != '-' {
		slug, rest = rest[0], rest[1:]
	}
	if flags.Parse(rest) != nil {
		return errUsage
	}
	switch {
	case verb == "list" && flags.NFlag() == 0 && flags.NArg() == 0:
		return administer(ctx, environ, func(ctx context.Context, _ adminSettings, db *postgres.DB) error {
			return printTenants(ctx, db, stdout)
		})
	case verb != "create" || slug == "" || flags.NArg() > 0:
		return misused(stderr, "gateway tenant", args, tenantUsage)
	case !httpapi.ValidSlug(slug):
		return fmt.Errorf("%q is not a slug: lower-case letters, digits and dashes, at most 63", slug)
	case utf8.RuneCountInString(*name) > keyNameMost:
		return fmt.Errorf("--name must be the name of a key, of at most %d characters", keyNameMost)
	}
	return administer(ctx, environ, func(ctx context.Context, cfg adminSettings, db *postgres.DB) error {
		return createTenant(postgres.WithVia(postgres.WithActor(ctx, "gateway tenant create"), "administrator"), cfg, db, slug, *name, *further, stdout)
	})
}

// createTenant makes a tenant and prints its key. A tenant that exists is an error
// unless a further key was asked for, so that a repeated command never hands out power
// by accident.
func createTenant(ctx context.Context, cfg adminSettings, db *postgres.DB, slug, name string, further bool, out io.Writer) error {
	id, created, err := db.CreateTenant(ctx, slug)
	if err != nil {
		return err
	}
	if !created && !further {
		return fmt.Errorf("tenant %s exists; --key makes another admin key for it", slug)
	}
	env := identity.LiveKey
	if cfg.Env == "development" {
		env = identity.DevKey
	}
	token := identity.NewToken(env)
	if name == "" {
		name = "admin"
		if !created {
			name += "-" + token.Prefix[len(token.Prefix)-6:]
		}
	}
	err = db.CreateAPIKey(ctx, id, postgres.APIKey{
		ID: token.ID, Name: name, Prefix: token.Prefix, Role: "admin", CreatedBy: "gateway tenant create",
	}, token.SHA256[:])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, token.Text)
	return err
}

// printTenants writes all tenants.
func printTenants(ctx context.Context, db *postgres.DB, out io.Writer) error {
	tenants, err := db.Tenants(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tID\tCREATED\tLIVE KEYS\tLAST USED")
	for _, t := range tenants {
		used := "-"
		if t.LastUsedAt != nil {
			used = t.LastUsedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", t.Slug, run.TenantID.Format(t.ID), t.CreatedAt.UTC().Format(time.RFC3339), t.Keys, used)
	}
	return w.Flush()
}
