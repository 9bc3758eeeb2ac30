package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
)

// listenTest is how long a notification may take to arrive.
const listenTest = 2 * time.Second

// Listens tries whether notifications reach this address: through a transaction
// pooler LISTEN succeeds and never delivers. The error says what did not work.
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
	if _, err := db.pool.Exec(ctx, "SELECT pg_notify($1, '')", channel); err != nil {
		return fmt.Errorf("notify: %w", mapError(err))
	}
	if _, err := raw.WaitForNotification(ctx); err != nil {
		return fmt.Errorf("no notification within %s: use a direct or session-mode connection for NOFX_DATABASE_LISTEN_URL", listenTest)
	}
	return nil
}
