package postgres

import "github.com/jackc/pgx/v5/pgxpool"

// PoolOf gives tests the connections of a store.
func PoolOf(db *DB) *pgxpool.Pool { return db.pool }
