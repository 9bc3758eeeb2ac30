package migrations_test

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	osexec "os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"nofx.dev/migrations"
	"nofx.dev/shared/servertest/pgserver"
)

var update = flag.Bool("update", false, "rewrite schema.sql and the pictures of README.md")

// golden compares a file with what the test made, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the migrations make: run go test ./migrations -update, and look at the difference", name)
	}
}

// migrated makes a database of the newest version and connects to it.
func migrated(t *testing.T) (string, *pgx.Conn) {
	t.Helper()
	dsn := database(t, "")
	if _, err := migrations.Up(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return dsn, conn
}

// TestSchemaDump keeps schema.sql: what pg_dump says of schema nofx, without the bodies
// of functions, which functions/ has, and without what differs from one server to another.
func TestSchemaDump(t *testing.T) {
	t.Parallel()
	dsn, conn := migrated(t)
	if v := conn.PgConn().ParameterStatus("server_version"); !strings.HasPrefix(v, "15.") {
		t.Skipf("schema.sql is a dump of Postgres 15, and this is %s", v)
	}
	program, err := pgserver.Program("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := osexec.CommandContext(t.Context(), program, "--schema-only", "--schema=nofx", "--dbname="+dsn)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, &stderr)
	}
	body := regexp.MustCompile(`(?s)AS \$\$.*?\$\$;`)
	noise := regexp.MustCompile(`(?m)^(--.*|SET .*|SELECT pg_catalog\..*|\\(un)?restrict .*)\n`)
	blank := regexp.MustCompile(`\n{3,}`)
	dump := body.ReplaceAllString(out.String(), "AS …;")
	dump = blank.ReplaceAllString(noise.ReplaceAllString(dump, ""), "\n\n")
	golden(t, "schema.sql", "-- Schema nofx as the migrations make it, dumped by a test. The bodies of functions are in functions/.\n"+strings.TrimRight(dump, "\n")+"\n")
}

// TestMachinesInReadme keeps the pictures of the state machines in README.md, made of
// the transition table.
func TestMachinesInReadme(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	rows, err := conn.Query(t.Context(), `
		SELECT t.machine, t.from_state, string_agg(t.event || CASE WHEN t.needs_lease THEN ' (lease)' ELSE '' END, ', ' ORDER BY t.event), t.to_state
		FROM nofx.transition t GROUP BY t.machine, t.from_state, t.to_state ORDER BY t.machine, t.from_state, t.to_state`)
	if err != nil {
		t.Fatal(err)
	}
	var pictures strings.Builder
	var machine, last, from, events, to string
	_, err = pgx.ForEachRow(rows, []any{&machine, &from, &events, &to}, func() error {
		if machine != last {
			if last != "" {
				pictures.WriteString("```\n")
			}
			fmt.Fprintf(&pictures, "\n**%s**\n```mermaid\nstateDiagram-v2\n", machine)
			last = machine
		}
		fmt.Fprintf(&pictures, "    %s --> %s: %s\n", from, to, events)
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		t.Fatal(err)
	}
	pictures.WriteString("```\n")
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- the machines, written by a test -->\n", "<!-- end -->\n"
	before, rest, ok := strings.Cut(string(readme), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("README.md has no place between %q and %q", begin, end)
	}
	golden(t, "README.md", before+begin+pictures.String()+"\n"+end+after)
}

// TestFunctionsAreValid creates each function once more with its body checked, which Up
// leaves out since functions call each other.
func TestFunctionsAreValid(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	rows, err := conn.Query(t.Context(), `
		SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'nofx'::regnamespace ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	definitions := map[string]string{}
	var name, definition string
	if _, err := pgx.ForEachRow(rows, []any{&name, &definition}, func() error { definitions[name] = definition; return nil }); err != nil {
		t.Fatal(err)
	}
	if len(definitions) < 100 {
		t.Fatalf("%d functions, want more than a hundred: the test looks at nothing", len(definitions))
	}
	for name, definition := range definitions {
		if _, err := conn.Exec(t.Context(), "SET search_path = nofx; SET check_function_bodies = on; "+definition); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFunctionsAreAppliedAgain checks that a database whose functions are others gets
// those of this release, without its tables being touched.
func TestFunctionsAreAppliedAgain(t *testing.T) {
	t.Parallel()
	dsn, conn := migrated(t)
	if _, err := conn.Exec(t.Context(), `
		UPDATE nofx.schema_migration SET sha256 = 'of the release before' WHERE name = 'functions';
		CREATE OR REPLACE FUNCTION nofx.clip(p_text text, p_bytes int) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT NULL::text'`); err != nil {
		t.Fatal(err)
	}
	if applied, err := migrations.Up(t.Context(), dsn); err != nil || fmt.Sprint(applied) != "[functions]" {
		t.Errorf("Up() = %v, %v, want the functions", applied, err)
	}
	var got string
	if err := conn.QueryRow(t.Context(), "SELECT nofx.clip('größe', 4)").Scan(&got); err != nil || got != "grö" {
		t.Errorf("clip() afterwards = %q, %v, want %q", got, err, "grö")
	}
}

// TestS08_SchemaGrants keeps grants.txt: what each login may do besides reading, and each
// function that it may call. A new function is granted to those who need it, and shows there.
func TestS08_SchemaGrants(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	rows, err := conn.Query(t.Context(), `
		WITH login (name) AS (VALUES ('nofx_gateway'), ('nofx_worker')), rights (line) AS (
			SELECT l.name || ' EXECUTE ' || p.oid::regprocedure FROM pg_proc p, login l
			WHERE p.pronamespace = 'nofx'::regnamespace AND has_function_privilege(l.name, p.oid, 'EXECUTE')
			UNION ALL
			SELECT l.name || ' ' || r.name || ' ' || c.oid::regclass || coalesce((
				SELECT ' (' || string_agg(a.attname, ', ' ORDER BY a.attnum) || ')' FROM pg_attribute a
				WHERE a.attrelid = c.oid AND a.attnum > 0 AND r.name IN ('INSERT', 'UPDATE') AND NOT has_table_privilege(l.name, c.oid, r.name) AND has_column_privilege(l.name, c.oid, a.attnum, r.name)), '')
			FROM pg_class c, login l, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS r (name)
			WHERE c.relnamespace IN ('nofx'::regnamespace, 'river'::regnamespace) AND c.relkind IN ('r', 'p', 'v') AND (has_table_privilege(l.name, c.oid, r.name)
				OR r.name IN ('INSERT', 'UPDATE') AND has_any_column_privilege(l.name, c.oid, r.name)))
		SELECT line FROM rights ORDER BY line COLLATE "C"`)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "grants.txt", "What the logins may call, and write, as the migrations grant it. Written by a test.\n"+strings.Join(lines, "\n")+"\n")
}
