package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/review"
)

// PinTools returns the tools that an MCP server of a forge announced to a session of this
// kind when it was first used, by digest. The first time those are tools.
func (db *DB) PinTools(ctx context.Context, tenant uuid.UUID, p review.Provider, server, session string, tools map[string]string) (pinned map[string]string, err error) {
	doc, err := document(tools)
	if err != nil {
		return nil, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT nofx.pin_tools($1, $2, $3, $4)", p, server, session, doc).Scan(&pinned)
	})
	return pinned, err
}

// ForgetTools has what the servers of a forge announce next take the place of what they
// announced before.
func (db *DB) ForgetTools(ctx context.Context, tenant uuid.UUID, p review.Provider) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.forget_tools($1)", p)
		return err
	})
}
