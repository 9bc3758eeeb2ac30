package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

func TestSizes(t *testing.T) {
	t.Parallel()
	for most, want := range map[int][]int{1000: {1000}, 5000: {1000, 5000}, 1_000_000: {1000, 100_000, 1_000_000}} {
		if got := sizes(most); !slices.Equal(got, want) {
			t.Errorf("sizes(%d) = %v, want %v", most, got, want)
		}
	}
	for n, want := range map[int]string{1000: "1k", 100_000: "100k", 2_000_000: "2m", 1500: "1500"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestFirstID(t *testing.T) {
	t.Parallel()
	before := time.Now().Truncate(time.Millisecond)
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	if first := firstID(before); strings.Compare(first.String(), id.String()) >= 0 {
		t.Errorf("firstID(now) = %s, want one before %s", first, id)
	}
	if first := firstID(time.Now().Add(time.Millisecond)); strings.Compare(first.String(), id.String()) <= 0 {
		t.Errorf("firstID(a moment later) = %s, want one after %s", first, id)
	}
}

// A database in small: what history does to ids, references, traces and answers.
const small = `
	CREATE SCHEMA nofx;
	CREATE TABLE nofx.tenant (tenant_id uuid PRIMARY KEY);
	CREATE TABLE nofx.rule (name text);
	CREATE TABLE nofx.run (tenant_id uuid, id uuid, project_id uuid, root_run_id uuid, parent_id uuid, goal text, trace_id text UNIQUE, PRIMARY KEY (tenant_id, id));
	CREATE TABLE nofx.step (tenant_id uuid, id uuid, run_id uuid, name text, PRIMARY KEY (tenant_id, id),
		FOREIGN KEY (tenant_id, run_id) REFERENCES nofx.run);
	CREATE TABLE nofx.event (tenant_id uuid, run_id uuid, seq int, xid xid8, loud boolean GENERATED ALWAYS AS (seq > 1) STORED, PRIMARY KEY (tenant_id, run_id, seq));
	CREATE TABLE nofx.gate (tenant_id uuid, id uuid PRIMARY KEY);
	CREATE TABLE nofx.blob (tenant_id uuid, sha256 text PRIMARY KEY);
	CREATE TABLE nofx.idempotency_key (tenant_id uuid, key text PRIMARY KEY);
	CREATE FUNCTION nofx.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not through here'; END $$;
	INSERT INTO nofx.tenant VALUES ('00000000-0000-0000-0000-000000000001');
	INSERT INTO nofx.run VALUES ('00000000-0000-0000-0000-000000000001', '019af000-0000-7aaa-8000-00000000000a', '00000000-0000-0000-0000-000000000002',
		'019af000-0000-7aaa-8000-00000000000a', NULL, 'go', 'f');
	INSERT INTO nofx.step VALUES ('00000000-0000-0000-0000-000000000001', '019af000-0001-7bbb-8000-00000000000b', '019af000-0000-7aaa-8000-00000000000a', 'a'),
		('00000000-0000-0000-0000-000000000001', '019af000-0001-7bbb-8000-00000000000c', '019af000-0000-7aaa-8000-00000000000a', 'b');
	INSERT INTO nofx.event VALUES ('00000000-0000-0000-0000-000000000001', '019af000-0000-7aaa-8000-00000000000a', 1, '1'),
		('00000000-0000-0000-0000-000000000001', '019af000-0000-7aaa-8000-00000000000a', 2, '1');
	INSERT INTO nofx.blob VALUES ('00000000-0000-0000-0000-000000000001', 'abc');
	INSERT INTO nofx.idempotency_key VALUES ('00000000-0000-0000-0000-000000000001', 'k');
	CREATE TRIGGER refuse BEFORE INSERT ON nofx.run FOR EACH ROW EXECUTE FUNCTION nofx.refuse();`

func TestHistory(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), newTestChain(t) // for its database
	admin := server.URL(c.database)
	if err := execute(ctx, admin, small); err != nil {
		t.Fatal(err)
	}
	h, err := newHistory(ctx, admin, 40)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	for _, runs := range []int{7, 25, 99} {
		if err := h.grow(ctx, runs, func(what string) { t.Log(what) }); err != nil {
			t.Fatal(err)
		}
		if h.runs != min(runs, 40) {
			t.Errorf("grow(%d) left %d copies, want %d", runs, h.runs, min(runs, 40))
		}
	}
	rows, err := c.pool.Query(ctx, `
		SELECT format('%s runs, %s traces', count(*), count(DISTINCT trace_id)) FROM nofx.run
		UNION ALL SELECT format('%s steps, %s of their runs', count(*), count(DISTINCT s.run_id)) FROM nofx.step s JOIN nofx.run r ON r.id = s.run_id
		UNION ALL SELECT format('%s events, %s in transactions of their own', count(*), count(DISTINCT xid)) FROM nofx.event
		UNION ALL SELECT format('%s blobs', count(*)) FROM nofx.blob
		UNION ALL SELECT format('%s answers', count(*)) FROM nofx.idempotency_key
		UNION ALL SELECT format('%s roots of their own, %s parents, %s projects', count(*) FILTER (WHERE id = root_run_id), count(parent_id), count(DISTINCT project_id)) FROM nofx.run
		UNION ALL SELECT format('ids from %s to %s', min(id::text), max(id::text)) FROM nofx.run`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"41 runs, 41 traces",
		"82 steps, 41 of their runs",
		"82 events, 4 in transactions of their own", // the original's and one for each call of grow
		"1 blobs",
		"5 answers", // its own, and those of 0, 10, 20 and 30
		"41 roots of their own, 0 parents, 1 projects",
		"ids from 019aead9-a3d8-7aaa-8000-00000000000a to 019af000-0000-7aaa-8000-00000000000a", // a day and 40 ms before it, and itself
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what copies are (-want +got):\n%s", diff)
	}
	if h, err := newHistory(ctx, admin, 40); err == nil || !strings.Contains(err.Error(), "the only run, and there are 41") {
		t.Errorf("newHistory of many runs = %v, %v, want an error that says so", h, err)
	}
}
