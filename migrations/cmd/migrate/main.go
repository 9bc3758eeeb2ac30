// Command migrate brings the database to the version of this release. It reads
// DATABASE_URL, an administrator's, and prints what it applied.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"nofx.dev/migrations"
)

const usage = `migrate brings the database to the version of this release: its schema, the roles that
the processes use, and the state machine. It prints what it applied, and may be run at
any time, by several at once.

usage:
  DATABASE_URL=postgres://ADMINISTRATOR:PASSWORD@HOST:5432/DATABASE migrate
  migrate --version   prints the version of this build
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch strings.Join(os.Args[1:], " ") {
	case "":
	case "-h", "-help", "--help", "help":
		fmt.Print(usage)
		return
	case "--version":
		fmt.Println("migrate version", version())
		return
	default:
		fmt.Fprintf(os.Stderr, "migrate: unknown command %q\n\n%s", strings.Join(os.Args[1:], " "), usage)
		os.Exit(2)
	}
	if err := run(ctx, os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "migrate:", err)
		os.Exit(1)
	}
}

// version returns the version of this build: a release, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (info.Main.Version == "" || info.Main.Version == "(devel)") {
			return s.Value
		}
	}
	return cmp.Or(info.Main.Version, "unknown")
}

func run(ctx context.Context, getenv func(string) string, out io.Writer) error {
	address := migrations.Address{Setting: "DATABASE_URL", URL: getenv("DATABASE_URL")}
	if address.URL == "" {
		return errors.New("DATABASE_URL is not set; it names the database as an administrator, for example postgres://ADMINISTRATOR:PASSWORD@HOST:5432/DATABASE")
	}
	applied, err := migrations.Up(ctx, address.URL)
	for _, name := range applied {
		fmt.Fprintln(out, "applied", name)
	}
	if err == nil && len(applied) == 0 {
		fmt.Fprintln(out, "up to date")
	}
	return address.Explain(err)
}
