package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"nofx.dev/gateway/internal/httpapi"
	"nofx.dev/shared/config"
	"nofx.dev/shared/postgres"
)

const tenantUsage = `usage: gateway tenant create SLUG [--key] [--name NAME]

Makes a tenant with its project "default" and prints one API key of role admin, the
only time it is shown. DATABASE_URL is an administrator's, since the role of the
gateway may not make tenants.

  --key        the tenant exists: give it a further admin key, for who lost theirs
  --name NAME  name of the key, which no live key of the tenant has; by default
               "admin", or with --key "admin-" and the end of the key's id
`

// adminSettings are what `gateway tenant` and `gateway queue` read from their
// environment.
type adminSettings struct {
	DatabaseURL string `env:"DATABASE_URL,required,notEmpty" secret:"true" doc:"database, as an administrator"`
	Pooled      bool   `env:"NOFX_DATABASE_POOLED" envDefault:"false" doc:"DATABASE_URL is a transaction pooler"`
	Env         string `env:"NOFX_ENV" envDefault:"production" doc:"keys are of env dev with development, else live"`
}

var errUsage = errors.New("see the usage above")

// tenant runs `gateway tenant create`. A tenant that exists is an error unless a
// further key was asked for, so that a repeated command never hands out power by
// accident.
func tenant(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	if len(args) < 2 || args[0] != "create" {
		fmt.Fprint(stderr, tenantUsage)
		return errUsage
	}
	slug := args[1]
	flags := flag.NewFlagSet("gateway tenant create", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, tenantUsage) }
	further := flags.Bool("key", false, "")
	name := flags.String("name", "", "")
	if err := flags.Parse(args[2:]); err != nil || flags.NArg() > 0 {
		return errUsage
	}
	if !httpapi.ValidSlug(slug) {
		return fmt.Errorf("%q is no slug: lower-case letters, digits and dashes, at most 63", slug)
	}
	cfg, _, err := config.Load[adminSettings](environ)
	if err != nil {
		return err
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: cfg.DatabaseURL, Pooled: cfg.Pooled, MaxConns: 1})
	if err != nil {
		return err
	}
	defer db.Close()
	ctx = postgres.WithActor(ctx, "gateway tenant create")
	id, created, err := db.CreateTenant(ctx, slug)
	if err != nil {
		return fmt.Errorf("tenant %s: %w", slug, err)
	}
	if !created && !*further {
		return fmt.Errorf("tenant %s exists; --key gives it a further admin key", slug)
	}
	env := httpapi.LiveKey
	if cfg.Env == "development" {
		env = httpapi.DevKey
	}
	token := httpapi.NewToken(env)
	if *name == "" {
		*name = "admin"
		if !created {
			*name += "-" + token.Prefix[len(token.Prefix)-6:]
		}
	}
	err = db.CreateAPIKey(ctx, id, postgres.APIKey{
		ID: token.ID, Name: *name, Prefix: token.Prefix, Role: "admin", CreatedBy: "gateway tenant create",
	}, token.SHA256[:])
	if err != nil {
		return fmt.Errorf("key of tenant %s (it exists now: repeat with --key): %w", slug, err)
	}
	_, err = fmt.Fprintln(stdout, token.Text)
	return err
}
