// Package migrations holds the database: forward-only SQL, one file per
// capability, applied in order by [Up]. River's own tables come first, in
// schema river; ours are in schema nofx.
//
// The files create four roles. nofx_owner and nofx_system do not log in: the
// first owns the tables, the second the SECURITY DEFINER functions that are the
// only way to change a state. nofx_app is what gateway and worker log in as;
// its password is set by whoever runs them.
//
// Until the first release the files are still edited, and a database that others
// have made is refused. From then on there are only new ones, each of which works
// with the binaries of the release before and of its own.
package migrations

import (
	"context"
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// FS holds the SQL files, named <version>_<capability>.sql.
//
//go:embed *.sql
var FS embed.FS

// lockKey serialises migrations of one database over all processes.
const lockKey = 0x6e6f6678 // "nofx"

// Up brings the database at url, an administrator's, to the newest version and
// returns the names of the files it applied. Each file is one transaction;
// processes that call Up at once take turns.
func Up(ctx context.Context, url string) (applied []string, err error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("database address: %w", err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", lockKey); err != nil {
		return nil, fmt.Errorf("migration lock: %w", err)
	}
	defer conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", lockKey) //nolint:errcheck // closing the connection frees it too

	if err := upRiver(ctx, pool); err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS nofx; CREATE TABLE IF NOT EXISTS nofx.schema_migration (
		version int PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`); err != nil {
		return nil, fmt.Errorf("migration table: %w", err)
	}
	// Of a table of before there was a checksum, none comes back.
	rows, err := conn.Query(ctx, "SELECT version, coalesce(to_jsonb(m)->>'sha256', '') FROM nofx.schema_migration m")
	if err != nil {
		return nil, fmt.Errorf("migration state: %w", err)
	}
	done := map[int]string{}
	var version int
	var sum string
	if _, err := pgx.ForEachRow(rows, []any{&version, &sum}, func() error { done[version] = sum; return nil }); err != nil {
		return nil, fmt.Errorf("migration state: %w", err)
	}
	for _, f := range files() {
		if sum, ok := done[f.version]; ok {
			if sum != f.sum() {
				return applied, fmt.Errorf("%s has changed since it made this database; until the first release that happens: start with a new database", f.name)
			}
			continue
		}
		if err := apply(ctx, conn.Conn(), f); err != nil {
			return applied, fmt.Errorf("migration %s: %w", f.name, err)
		}
		applied = append(applied, f.name)
	}
	return applied, nil
}

// Latest is the version that Up reaches.
func Latest() int {
	all := files()
	return all[len(all)-1].version
}

type file struct {
	version int
	name    string
	sql     string
}

// sum tells one text of a file from another.
func (f file) sum() string { return fmt.Sprintf("%x", sha256.Sum256([]byte(f.sql))) }

// files are the migrations in order. A misnamed file is a mistake of the build.
func files() []file {
	names, err := fs.Glob(FS, "*.sql")
	if err != nil {
		panic(err)
	}
	all := make([]file, 0, len(names))
	for i, name := range names {
		digits, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(digits)
		if err != nil || version != i+1 {
			panic("migrations: " + name + " is not number " + strconv.Itoa(i+1))
		}
		sql, err := FS.ReadFile(name)
		if err != nil {
			panic(err)
		}
		all = append(all, file{version, name, string(sql)})
	}
	return all
}

func apply(ctx context.Context, conn *pgx.Conn, f file) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, f.sql); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO nofx.schema_migration (version, name, sha256) VALUES ($1, $2, $3)", f.version, f.name, f.sum())
		return err
	})
}

func upRiver(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS river"); err != nil {
		return fmt.Errorf("schema river: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Schema: "river",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("river's migrator: %w", err)
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("river's migrations: %w", err)
	}
	return nil
}
