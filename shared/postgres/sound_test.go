package postgres_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// wantSound fails for every invariant that the database breaks, as nofx.unsound()
// names them.
func (s *store) wantSound(t testing.TB) {
	t.Helper()
	rows, err := s.Admin.Query(s.ctx, "SELECT invariant, offender FROM nofx.unsound()")
	if err != nil {
		t.Fatal(err)
	}
	broken := map[string][]string{}
	var invariant, offender string
	if _, err := pgx.ForEachRow(rows, []any{&invariant, &offender}, func() error {
		broken[invariant] = append(broken[invariant], offender)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(broken)) {
		t.Errorf("%s: broken by %d: %v", name, len(broken[name]), broken[name][:min(len(broken[name]), 5)])
	}
}
