package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"nofx.dev/shared/config"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// adminSettings are what `gateway tenant` and `gateway queue` read from their
// environment.
type adminSettings struct {
	DatabaseURL string `env:"DATABASE_URL,required,notEmpty" secret:"true" example:"postgres://ADMINISTRATOR:PASSWORD@HOST:5432/DATABASE" doc:"database, with an administrator's login"`
	Pooled      bool   `env:"NOFX_DATABASE_POOLED" envDefault:"false" doc:"DATABASE_URL is a transaction pooler"`
	Env         string `env:"NOFX_ENV" envDefault:"production" want:"development|production" doc:"new keys have env dev in development, otherwise live"`
}

// errUsage ends a command that was not understood, once its usage was shown.
var errUsage = errors.New("see the usage above")

// administer runs do on the database that environ names, as an administrator. The
// error is in words.
func administer(ctx context.Context, environ []string, do func(context.Context, adminSettings, *postgres.DB) error) error {
	cfg, _, err := config.Load[adminSettings](environ)
	if err != nil {
		return err
	}
	address := postgres.Address{Setting: "DATABASE_URL", URL: cfg.DatabaseURL}
	db, err := postgres.Open(ctx, postgres.Config{URL: cfg.DatabaseURL, Pooled: cfg.Pooled, MaxConns: 1})
	if err != nil {
		return address.Explain(err)
	}
	defer db.Close()
	err = do(ctx, cfg, db)
	if explained := address.Explain(err); explained != err {
		return explained
	}
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return errors.New(e.Detail) // the cause is a driver's
	}
	return err
}

// misused names what of a command line is not understood, before the usage.
func misused(stderr io.Writer, command string, args []string, usage string) error {
	switch {
	case len(args) == 0:
		fmt.Fprintf(stderr, "%s: name a command\n\n%s", command, usage)
	default:
		fmt.Fprintf(stderr, "%s: unknown command %q\n\n%s", command, strings.Join(args, " "), usage)
	}
	return errUsage
}

// flagSet makes the flags of a command that show usage on stderr when they are wrong.
func flagSet(name, usage string, stderr io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	return flags
}

// asksHelp reports whether args ask what a command does.
func asksHelp(args []string) bool {
	return len(args) > 0 && args[0] == "help" ||
		slices.Contains(args, "-h") || slices.Contains(args, "-help") || slices.Contains(args, "--help")
}
