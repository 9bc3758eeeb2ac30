package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// listSlice is the number of index rows that one statement reads.
const listSlice = 20_000

// scan reads a list in the order of its ids, a slice at a time: ids from one index in its
// order, and for each the columns that other conditions need. The statements fix their
// plans by construction, since statistics do not show how conditions correlate.
type scan struct {
	args   []any  // $1 is the tenant, $2 behind which id
	slice  string // the ids to look at, with the first sliced of args
	sliced int
	order  string // of slice
	sql    string // the rows among them, up to their limit
}

// page reads at most limit rows of s, until a time but at least one slice. more is the
// place to continue from, or nil at the end.
func page[T any](ctx context.Context, tx pgx.Tx, s *scan, row pgx.RowToFunc[T], id func(T) uuid.UUID, limit int, until time.Time) (list []T, more *uuid.UUID, err error) {
	for {
		rows, err := tx.Query(ctx, s.sql+strconv.Itoa(limit+1-len(list)), s.args...)
		if err != nil {
			return nil, nil, err
		}
		found, err := pgx.CollectRows(rows, row)
		if err != nil {
			return nil, nil, err
		}
		if list = append(list, found...); len(list) > limit {
			last := id(list[limit-1])
			return list[:limit], &last, nil
		}
		end, err := s.end(ctx, tx)
		if err != nil || end == nil {
			return list, nil, err
		}
		if time.Now().After(until) {
			return list, end, nil
		}
		s.args[1] = *end
	}
}

// end returns the last id of the slice, nil when it was not full.
func (s *scan) end(ctx context.Context, tx pgx.Tx) (end *uuid.UUID, err error) {
	err = tx.QueryRow(ctx, fmt.Sprintf("SELECT id FROM (%s) AS d ORDER BY %s OFFSET %d", s.slice, s.order, listSlice-1), s.args[:s.sliced]...).Scan(&end)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return end, err
}

// projectID returns the id of a tenant's project, nil without a slug, and whether there is
// such a project.
func projectID(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, slug string) (id *uuid.UUID, known bool, err error) {
	if slug == "" {
		return nil, true, nil
	}
	err = tx.QueryRow(ctx, "SELECT id FROM nofx.project WHERE tenant_id = $1 AND slug = $2", tenant, slug).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	return id, err == nil, err
}
