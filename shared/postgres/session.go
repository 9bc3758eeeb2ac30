package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
)

// KeepsSessions tests whether a prepared statement stays with the connection that made it,
// as [Config] promises with Pooled false: behind a transaction pooler, statements would
// sometimes be missing. The error, fault.Unavailable, names the setting.
func (db *DB) KeepsSessions(ctx context.Context) error {
	if db.pooled {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, db.patience)
	defer cancel()
	var conns [2]*pgconn.PgConn
	for i := range conns {
		conn, err := pgconn.ConnectConfig(ctx, &db.pool.Config().ConnConfig.Config)
		if err != nil {
			return mapError(err)
		}
		defer conn.Close(context.WithoutCancel(ctx)) // nothing is lost with it
		conns[i] = conn
	}
	mine, other := conns[0], conns[1]
	statement := "nofx_" + strings.ToLower(rand.Text())
	if _, err := mine.Prepare(ctx, statement, "SELECT", nil); err != nil {
		return mapError(err)
	}
	// The other keeps whatever server it was given: perhaps the one with the statement.
	if err := other.Exec(ctx, "BEGIN").Close(); err != nil {
		return mapError(err)
	}
	if other.ExecPrepared(ctx, statement, nil, nil, nil).Read().Err == nil {
		return forgetful(nil)
	}
	return mapError(mine.ExecPrepared(ctx, statement, nil, nil, nil).Read().Err)
}

// isForgetful reports whether err comes from a database that does not keep prepared
// statements.
func isForgetful(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "42P05" || pg.Code == "26000")
}

// forgetful returns the error of a database that does not keep prepared statements.
func forgetful(err error) error {
	return fault.New(fault.Unavailable, "unavailable", "the database is reached through a transaction pooler, which prepared statements do not survive: set NOFX_DATABASE_POOLED=true").Because(err)
}

// listenTest is how long a notification may take to arrive.
const listenTest = 2 * time.Second

// Listens tests whether notifications reach this address: through a transaction pooler
// LISTEN succeeds but never delivers. The error says what failed.
func (db *DB) Listens(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listenTest)
	defer cancel()
	channel := "nofx_" + strings.ToLower(rand.Text())
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("listen: %w", mapError(err))
	}
	// A session that listened is not given back to the pool.
	raw := conn.Hijack()
	defer raw.Close(context.WithoutCancel(ctx)) // nothing is lost with it
	if _, err := raw.Exec(ctx, "LISTEN "+channel); err != nil {
		return fmt.Errorf("listen: %w", mapError(err))
	}
	if _, err := db.pool.Exec(ctx, "SELECT pg_notify($1, '')", pgx.QueryExecModeExec, channel); err != nil {
		return fmt.Errorf("notify: %w", mapError(err))
	}
	if _, err := raw.WaitForNotification(ctx); err != nil {
		return fmt.Errorf("no notification within %s: use a direct or session-mode connection for NOFX_DATABASE_LISTEN_URL", listenTest)
	}
	return nil
}
