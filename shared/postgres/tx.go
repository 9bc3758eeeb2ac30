package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// transaction is a pgx.Tx with few round trips: BEGIN and its settings are sent with the
// first statement, and queued statements with the next statement or the commit. A round
// trip costs both sides more than most statements do.
//
// Of pgx.Tx it has what this package and River use.
type transaction struct {
	pgx.Tx // nil: the rest of the interface
	conn   *pgx.Conn
	begun  bool // the server knows of it
	queued *pgx.Batch
}

// begin opens a transaction of a tenant on conn. The settings are local to it:
// anything longer would leak to the next borrower of the connection.
func begin(ctx context.Context, conn *pgx.Conn, tenant uuid.UUID, mode string) *transaction {
	t := &transaction{conn: conn, queued: &pgx.Batch{}}
	t.queue("BEGIN" + mode)
	t.queue("SELECT set_config('nofx.tenant_id', $1, true), set_config('nofx.actor', $2, true), set_config('nofx.via', $3, true), set_config('nofx.traceparent', $4, true)",
		tenant.String(), actor(ctx), via(ctx), traceparent(ctx))
	return t
}

// queue runs a statement together with the next statement or the commit, which then returns
// its error.
func (t *transaction) queue(sql string, args ...any) { t.queued.Queue(sql, args...) }

// queue calls [transaction.queue] for the methods of the store, whose transactions
// come as pgx.Tx.
func queue(tx pgx.Tx, sql string, args ...any) { tx.(*transaction).queue(sql, args...) }

func (t *transaction) Conn() *pgx.Conn { return t.conn }

// send sends what is queued and one statement more, and leaves its result to be
// read.
func (t *transaction) send(ctx context.Context, sql string, args []any) (pgx.BatchResults, error) {
	batch := t.queued
	t.queued = &pgx.Batch{}
	before := batch.Len()
	batch.Queue(sql, args...)
	t.begun = true
	results := t.conn.SendBatch(ctx, batch)
	for range before {
		if _, err := results.Exec(); err != nil {
			results.Close() //nolint:errcheck // the error is the one at hand
			return nil, err
		}
	}
	return results, nil
}

// Exec runs a statement.
func (t *transaction) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.queued.Len() == 0 {
		return t.conn.Exec(ctx, sql, args...)
	}
	results, err := t.send(ctx, sql, args)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := results.Exec()
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return tag, err
}

// Query runs a query. Its rows are to be closed before the next statement.
func (t *transaction) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.queued.Len() == 0 {
		return t.conn.Query(ctx, sql, args...)
	}
	results, err := t.send(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	rows, err := results.Query()
	if err != nil {
		results.Close() //nolint:errcheck // the error is the one at hand
		return nil, err
	}
	return &batchRows{Rows: rows, results: results}, nil
}

// QueryRow runs a query and returns its first row.
func (t *transaction) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := t.Query(ctx, sql, args...)
	return &firstRow{rows, err}
}

// Commit sends the queued statements and commits. A transaction without statements ends
// without a round trip.
func (t *transaction) Commit(ctx context.Context) error {
	if !t.begun && t.queued.Len() <= settingsQueued {
		return nil
	}
	tag, err := t.Exec(ctx, "COMMIT")
	if err == nil && tag.String() == "ROLLBACK" {
		err = pgx.ErrTxCommitRollback
	}
	if err == nil {
		t.begun = false
	}
	return err
}

// settingsQueued is what begin queues.
const settingsQueued = 2

// Rollback undoes the statements that were sent; queued ones are dropped.
func (t *transaction) Rollback(ctx context.Context) error {
	if !t.begun || t.conn.IsClosed() {
		return nil
	}
	t.begun = false
	_, err := t.conn.Exec(ctx, "ROLLBACK")
	return err
}

// batchRows are the rows of the last statement of a batch, which they end.
type batchRows struct {
	pgx.Rows
	results pgx.BatchResults
	err     error
	closed  bool
}

func (r *batchRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *batchRows) Close() {
	r.Rows.Close()
	if !r.closed {
		r.closed = true
		r.err = r.results.Close()
	}
}

func (r *batchRows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.err
}

// firstRow is the row of a QueryRow.
type firstRow struct {
	rows pgx.Rows
	err  error
}

func (r *firstRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
