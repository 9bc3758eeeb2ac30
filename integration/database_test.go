package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	postgres "github.com/jackc/pgx/v5"
)

// list returns the one column of a query. It works at the end of a test too.
func list[T any](t *testing.T, s *system, query string, args ...any) (all []T) {
	t.Helper()
	return column[T](t, s.db, query, args...)
}

// querier is the database, or a transaction on it.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (postgres.Rows, error)
}

func column[T any](t *testing.T, q querier, query string, args ...any) (all []T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	rows, err := q.Query(ctx, query, args...)
	if err == nil {
		all, err = postgres.CollectRows(rows, postgres.RowTo[T])
	}
	if err != nil {
		t.Fatalf("query %s: %v", query, err)
	}
	return all
}

// one returns the one value of a query.
func one[T any](t *testing.T, s *system, query string, args ...any) T {
	t.Helper()
	all := list[T](t, s, query, args...)
	if len(all) != 1 {
		t.Fatalf("query %s = %d rows, want 1", query, len(all))
	}
	return all[0]
}

// uuidOf returns a public id as the database has it.
func uuidOf(id string) string { return id[strings.IndexByte(id, '_')+1:] }

// contents returns a digest of everything in the database that a request could change,
// table by table; when a key was used is left out, and what workers say of themselves.
func (s *system) contents(t *testing.T) map[string]string {
	t.Helper()
	tables := list[string](t, s, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'nofx' AND tablename NOT IN ('worker', 'contact') AND tablename NOT LIKE 'audit%'
		UNION ALL SELECT 'river.river_job' ORDER BY 1`)
	all := make(map[string]string, len(tables))
	for _, table := range tables {
		all[table] = one[string](t, s, fmt.Sprintf(
			`SELECT count(*) || ' rows ' || coalesce(md5(string_agg(x, '' ORDER BY x)), '') FROM (SELECT (to_jsonb(t) - 'last_used_at')::text AS x FROM %s t) y`, table))
	}
	return all
}
