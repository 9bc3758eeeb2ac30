package postgres_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// wantSound fails for every invariant that the database breaks, as nofx.unsound()
// names them, and for events that the catalogue does not know.
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
	for _, what := range all[string](t, s, "SELECT DISTINCT e.type || ' ' || k FROM nofx.event e, jsonb_object_keys(e.data) AS k WHERE k <> 'request_trace_id'") {
		typ, member, _ := strings.Cut(what, " ")
		i := slices.IndexFunc(run.EventTypes(), func(e run.EventType) bool { return e.Name == typ })
		if i < 0 || !slices.Contains(run.EventTypes()[i].Data, member) {
			t.Errorf("events of type %s with %s in data are not in the catalogue", typ, member)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(broken)) {
		t.Errorf("%s: broken by %d: %v", name, len(broken[name]), broken[name][:min(len(broken[name]), 5)])
	}
}
