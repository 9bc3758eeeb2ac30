package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// history fills a database with finished runs: copies of one that was really run
// there, row by row in whatever tables it left rows, so that they are what the
// system writes and follow the schema as it grows. A copy has ids and a trace of
// its own, older than the original's and in order, as if there had been one run a
// millisecond; all else is the original's. Finished jobs are gone, as they are
// after a while. Stored answers to requests are kept for days and runs for months,
// so every tenth copy has one.
type history struct {
	conn    *pgx.Conn // an administrator's
	most    int
	inserts []string // statements with the numbers of the first and of the last copy
	tables  []string
	runs    int // copies so far
}

// kept are the tables of a tenant that a run writes nothing to.
var kept = []string{"tenant", "project", "api_key"}

// newHistory takes the rows of the only run that the database of an administrator
// has and is ready to make up to most copies of it.
func newHistory(ctx context.Context, admin string, most int) (_ *history, err error) {
	h := &history{most: most}
	if h.conn, err = pgx.Connect(ctx, admin); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	// Triggers would check and write anew what is the original's; nothing that is
	// lost in a crash is missed.
	if _, err := h.conn.Exec(ctx, `SET session_replication_role = replica; SET synchronous_commit = off`); err != nil {
		return nil, fmt.Errorf("turn triggers off, which takes a superuser: %w", err)
	}
	var runs int
	var id *uuid.UUID
	if err := h.conn.QueryRow(ctx, `SELECT count(*), (array_agg(id))[1] FROM nofx.run`).Scan(&runs, &id); err != nil {
		return nil, err
	}
	if runs != 1 {
		return nil, fmt.Errorf("history is made of copies of the only run, and there are %d", runs)
	}
	sec, nsec := id.Time().UnixTime()
	oldest := time.Unix(sec, nsec).Add(-24*time.Hour).UnixMilli() - int64(most)
	rows, err := h.conn.Query(ctx, `
		SELECT c.relname, array_agg(a.attname ORDER BY a.attnum), array_agg(a.atttypid::regtype::text ORDER BY a.attnum)
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		WHERE c.relnamespace = 'nofx'::regnamespace AND c.relkind = 'r' AND c.relname <> ALL ($1)
		GROUP BY c.relname HAVING 'tenant_id' = ANY (array_agg(a.attname)) ORDER BY c.relname`, kept)
	if err != nil {
		return nil, err
	}
	type columns struct {
		Table        string
		Names, Types []string
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[columns])
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		keep, insert := copies(t.Table, t.Names, t.Types, oldest)
		tag, err := h.conn.Exec(ctx, keep)
		if err != nil {
			return nil, fmt.Errorf("keep the rows of %s: %w", t.Table, err)
		}
		if tag.RowsAffected() > 0 {
			h.tables, h.inserts = append(h.tables, "nofx."+t.Table), append(h.inserts, insert)
		}
	}
	return h, nil
}

// copies returns two statements for a table: one puts the original rows aside, the
// other inserts copies $1 to $2 of them. Ids are UUIDv7, so the first 12 digits of
// a copy's are its time, and the others, the original's, tell ids of a run apart.
func copies(table string, names, types []string, oldest int64) (keep, insert string) {
	selected, made := make([]string, len(names)), make([]string, len(names))
	shared := true // by all runs, as what is stored once for equal content
	for i, name := range names {
		column := pgx.Identifier{name}.Sanitize()
		selected[i], made[i] = column, "o."+column
		switch {
		case types[i] == "uuid" && name != "tenant_id" && name != "project_id":
			selected[i] = fmt.Sprintf("substr(replace(%s::text, '-', ''), 13) AS %[1]s", column)
			made[i] = fmt.Sprintf("(n.at || o.%s)::uuid", column)
			shared = false
		case types[i] == "xid8":
			made[i] = "pg_current_xact_id()"
		case table == "run" && name == "trace_id":
			made[i] = "md5(n.i::text)"
		case table == "idempotency_key" && name == "key":
			made[i] = "o.key || n.i"
		}
		names[i] = column
	}
	every := 1
	if table == "idempotency_key" {
		every = 10
	}
	from := pgx.Identifier{"nofx", table}.Sanitize()
	aside := pgx.Identifier{"pg_temp", "history_" + table}.Sanitize()
	keep = fmt.Sprintf("CREATE TEMPORARY TABLE %s AS SELECT %s FROM %s", pgx.Identifier{"history_" + table}.Sanitize(), strings.Join(selected, ", "), from)
	insert = fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM %s o,
		(SELECT i, lpad(to_hex(%d + i), 12, '0') AS at FROM generate_series($1::bigint, $2::bigint) AS g (i) WHERE i %% %d = 0) n`,
		from, strings.Join(names, ", "), strings.Join(made, ", "), aside, oldest, every)
	if shared {
		insert += " ON CONFLICT DO NOTHING"
	}
	return keep, insert
}

// grow adds copies until there are so many, and leaves the tables as autovacuum
// would in time.
func (h *history) grow(ctx context.Context, runs int, progress func(string)) error {
	const batch = 5000
	told := time.Now()
	// What autovacuum would do again and again is done once, at the end.
	if err := h.each(ctx, "ALTER TABLE %s SET (autovacuum_enabled = off)"); err != nil {
		return err
	}
	for h.runs < min(runs, h.most) {
		last := min(h.runs+batch, runs, h.most)
		err := pgx.BeginFunc(ctx, h.conn, func(tx pgx.Tx) error {
			for i, sql := range h.inserts {
				if _, err := tx.Exec(ctx, sql, h.runs, last-1); err != nil {
					return fmt.Errorf("copy rows of %s: %w", h.tables[i], err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		h.runs = last
		if time.Since(told) > 15*time.Second {
			told = time.Now()
			progress(fmt.Sprintf("%d of %d finished runs written", h.runs, runs))
		}
	}
	if err := h.each(ctx, "ALTER TABLE %s RESET (autovacuum_enabled)"); err != nil {
		return err
	}
	if err := h.each(ctx, "VACUUM (ANALYZE) %s"); err != nil {
		return err
	}
	_, err := h.conn.Exec(ctx, "CHECKPOINT")
	return err
}

// each executes a statement for each table.
func (h *history) each(ctx context.Context, format string) error {
	for _, table := range h.tables {
		sql := fmt.Sprintf(format, table)
		if _, err := h.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// bytes returns how large the database is.
func (h *history) bytes(ctx context.Context) (n int64, err error) {
	err = h.conn.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&n)
	return n, err
}

func (h *history) close() { h.conn.Close(context.Background()) }
