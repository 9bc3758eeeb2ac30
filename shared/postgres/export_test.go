package postgres

import (
	"context"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
)

// PoolOf gives tests the connections of a store.
func PoolOf(db *DB) *pgxpool.Pool { return db.pool }

// Dialer gives tests what makes the connections of a store.
var Dialer = dialer

// MapError gives tests the faults that errors of the driver become.
var MapError = mapError

// Explain returns the statement that lists the first slice of f's runs, for tests to
// see its plan. A project is not looked up.
func (f RunFilter) Explain(tenant uuid.UUID) (sql string, args []any) {
	var project *uuid.UUID
	if f.Project != "" {
		project = &tenant
	}
	s := f.scan(tenant, project)
	return s.sql + strconv.Itoa(f.Limit+1), s.args
}

// Explain returns the statement that lists f's reviews, for tests to see its plan.
func (f ReviewFilter) Explain(tenant uuid.UUID, limit int) (sql string, args []any) {
	q := f.query(tenant, limit)
	return q.sql, q.args
}

// NewSearches gives tests the slots for searches of so many connections.
func NewSearches(conns int32) func(context.Context, uuid.UUID) (func(), error) {
	return newSearches(conns).acquire
}
