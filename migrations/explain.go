package migrations

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Address is the setting that names a database, as those who set it know it.
type Address struct {
	Setting string // the name, as DATABASE_URL
	URL     string
	Role    string // that it is to have, as nofx_gateway; "": an administrator's
}

// Explain returns in words what err, met with the database at a, means for whoever set a,
// and what to do about it. It shows neither the address nor what a driver says, except
// of errors that it does not know: those come back as they are.
func (a Address) Explain(err error) error {
	if err == nil {
		return nil
	}
	example := "for example postgres://" + cmp.Or(a.Role, "ADMINISTRATOR") + ":PASSWORD@HOST:5432/DATABASE"
	cfg, parseErr := pgx.ParseConfig(a.URL)
	if parseErr != nil {
		return fmt.Errorf("%s is not the address of a database, %s", a.Setting, example)
	}
	words := a.words(err, cfg, example)
	if words == "" {
		return err
	}
	return fmt.Errorf("%s: %s", a.Setting, words)
}

func (a Address) words(err error, cfg *pgx.ConnConfig, example string) string {
	where := net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	pg, answered := errors.AsType[*pgconn.PgError](err)
	if !answered {
		if !connecting {
			return ""
		}
		return unreachable(err, where)
	}
	switch pg.Code {
	case "28P01", "28000":
		remedy := "check both"
		if a.Role != "" && cfg.User == a.Role {
			remedy = "set its password as an administrator, ALTER ROLE " + a.Role + " PASSWORD '…', once migrate has made the role"
		}
		return fmt.Sprintf("the server at %s refuses role %s with this password; %s", where, cfg.User, remedy)
	case "3D000":
		return fmt.Sprintf("there is no database %s at %s; name another, or make it, CREATE DATABASE %s, and run migrate", cfg.Database, where, cfg.Database)
	case "42P01", "3F000", "42883":
		return fmt.Sprintf("the database %s at %s is not migrated; name another, or run migrate, as an administrator", cfg.Database, where)
	case "42501":
		if a.Role == "" {
			return fmt.Sprintf("role %s may not do this; name an administrator, %s", cfg.User, example)
		}
		return fmt.Sprintf("role %s may not work with the database %s; name %s, %s", cfg.User, cfg.Database, a.Role, example)
	case "42P05", "26000":
		return fmt.Sprintf("%s is a transaction pooler; set NOFX_DATABASE_POOLED=true, or name the server itself, as migrate needs it", where)
	case "53300":
		return fmt.Sprintf("the server at %s has no connection left for role %s; raise its max_connections, or the limit of the role", where, cfg.User)
	case "25006":
		return fmt.Sprintf("the database at %s is read-only; name the primary server", where)
	case "57P03":
		return fmt.Sprintf("the server at %s is starting up or shutting down; try again", where)
	}
	if connecting {
		return fmt.Sprintf("the server at %s refuses role %s: %s", where, cfg.User, pg.Message)
	}
	return ""
}

// unreachable returns why there was no connection to the server at where.
func unreachable(err error, where string) string {
	dns, unknown := errors.AsType[*net.DNSError](err)
	switch {
	case unknown && dns.IsNotFound:
		return fmt.Sprintf("there is no host %s", dns.Name)
	case pgconn.Timeout(err) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer from %s; check the host, and firewalls on the way", where)
	case strings.Contains(err.Error(), "refused TLS"):
		return fmt.Sprintf("the server at %s does not speak TLS; add ?sslmode=disable where the network is safe", where)
	}
	return fmt.Sprintf("nothing answers at %s; does Postgres run there?", where)
}
