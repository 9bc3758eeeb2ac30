// Package migrations holds the database as SQL, which [Up] applies: tables/ are
// forward-only migrations, one file for each capability, in order; functions/ are
// the functions and triggers as they stand, one file for each noun, applied again
// all together whenever one of them has changed. River's own tables come first, in
// schema river; ours are in schema nofx. README.md explains the choices that SQL
// alone does not show, and schema.sql is a dump of it all.
//
// The files create roles. nofx_owner and nofx_system do not log in: the first owns the
// tables, the second the SECURITY DEFINER functions that are the only way to change a
// state. nofx_gateway and nofx_worker are what the processes log in as, members of nofx_app,
// which has what both may do; their passwords are set by whoever runs them.
//
// Until the first release the files of tables/ are still edited, and a database that
// others have made is refused. From then on there are only new ones, each of which
// works with the binaries of the release before and of its own; so does functions/: a
// function whose parameters or results change gets a new name, and the old one stays
// for one release.
package migrations

import (
	"context"
	"crypto/sha256"
	"embed"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed tables/*.sql functions/*.sql
var files embed.FS

// lockKey serialises migrations of one database over all processes.
const lockKey = 0x6e6f6678 // "nofx"

// Up brings the database at url, an administrator's, to the newest version and
// returns the names of what it applied: files of tables/, and "functions". Each is one
// transaction; processes that call Up at once take turns.
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
	done, err := sums(ctx, conn.Conn())
	if err != nil {
		return nil, fmt.Errorf("migration state: %w", err)
	}
	for _, m := range append(tables(), functions()) {
		switch sum, ok := done[m.version]; {
		case sum == m.sum():
			continue
		case ok && m.version != functionsVersion:
			return applied, fmt.Errorf("%s has changed since it made this database; until the first release that happens: start with a new database", m.name)
		}
		if err := apply(ctx, conn.Conn(), m); err != nil {
			return applied, fmt.Errorf("migration %s: %w", m.name, err)
		}
		applied = append(applied, m.name)
	}
	return applied, nil
}

// Latest returns the version of the tables that Up reaches.
func Latest() int { return len(tables()) }

// functionsVersion is the version under which nofx.schema_migration has the functions.
// Tables count from 1.
const functionsVersion = 0

// migration is applied in one transaction.
type migration struct {
	version int
	name    string
	role    string // that applies it; "": the administrator
	texts   []string
}

// sum returns a text by which one text of a migration is known from another.
func (m migration) sum() string {
	h := sha256.New()
	for _, text := range m.texts {
		io.WriteString(h, text) //nolint:errcheck // a hash refuses nothing
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// tables returns the migrations of tables/ in order. A misnamed file is a mistake of the
// build.
func tables() (all []migration) {
	names, texts := read("tables")
	for i, name := range names {
		digits, _, _ := strings.Cut(name, "_")
		if version, err := strconv.Atoi(digits); err != nil || version != i+1 {
			panic("migrations: " + name + " is not number " + strconv.Itoa(i+1))
		}
		all = append(all, migration{version: i + 1, name: name, texts: texts[i : i+1]})
	}
	return all
}

// functions returns what functions/ has, all of which is applied together.
func functions() migration {
	_, texts := read("functions")
	return migration{version: functionsVersion, name: "functions", role: "nofx_system", texts: texts}
}

// read returns the names and texts of a folder's files, by name.
func read(folder string) (names, texts []string) {
	entries, err := files.ReadDir(folder)
	if err != nil {
		panic(err)
	}
	for _, e := range entries {
		text, err := files.ReadFile(folder + "/" + e.Name())
		if err != nil {
			panic(err)
		}
		names, texts = append(names, e.Name()), append(texts, string(text))
	}
	return names, texts
}

// sums returns the sums of the migrations that the database has, by version.
func sums(ctx context.Context, conn *pgx.Conn) (map[int]string, error) {
	if _, err := conn.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS nofx; CREATE TABLE IF NOT EXISTS nofx.schema_migration (
		version int PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())`); err != nil {
		return nil, err
	}
	// The first databases had no sums: of those none comes back.
	rows, err := conn.Query(ctx, "SELECT version, coalesce(to_jsonb(m)->>'sha256', '') FROM nofx.schema_migration m")
	if err != nil {
		return nil, err
	}
	done := map[int]string{}
	var version int
	var sum string
	_, err = pgx.ForEachRow(rows, []any{&version, &sum}, func() error { done[version] = sum; return nil })
	return done, err
}

func apply(ctx context.Context, conn *pgx.Conn, m migration) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Functions call each other, whatever their order.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'; SET LOCAL check_function_bodies = off"); err != nil {
			return err
		}
		if m.role != "" {
			if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+m.role); err != nil {
				return err
			}
		}
		for _, text := range m.texts {
			if _, err := tx.Exec(ctx, text); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "RESET ROLE")
		if err == nil {
			_, err = tx.Exec(ctx, `INSERT INTO nofx.schema_migration (version, name, sha256) VALUES ($1, $2, $3)
				ON CONFLICT (version) DO UPDATE SET sha256 = excluded.sha256, applied_at = clock_timestamp()`, m.version, m.name, m.sum())
		}
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
