package pgtest_test

import (
	"fmt"
	"testing"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Parallel tests have a ready database each and see only what they did.
func TestNew(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			d := pgtest.New(t)
			if err := d.Open(t, postgres.Config{}).Ready(t.Context()); err != nil {
				t.Errorf("Ready() = %v, want nil", err)
			}
			for want := range i {
				var n int
				if err := d.Admin.QueryRow(t.Context(), "SELECT count(*) FROM nofx.project WHERE slug = 'default'").Scan(&n); err != nil {
					t.Fatal(err)
				}
				if n != want {
					t.Errorf("projects = %d, want %d", n, want)
				}
				d.Tenant(t)
			}
		})
	}
}
