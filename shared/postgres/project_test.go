package postgres_test

import (
	"errors"
	"sync"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// A project that is deleted while a run is created in it has either the run or an end: no run
// is left without its project.
func TestDeleteProjectWhileRunsAreCreated(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for range 20 {
		if _, err := s.CreateProject(s.ctx, s.tenant, "web"); err != nil && !errors.Is(err, fault.Conflict) {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-start
				_, _, err := s.CreateRun(s.ctx, s.tenant, postgres.NewRun{Project: "web", Plan: plan(t, "a:"), CreatedBy: "author"})
				if err != nil && !errors.Is(err, fault.NotFound) {
					t.Errorf("CreateRun() = %v, want nil or not found", err)
				}
			})
		}
		wg.Go(func() {
			<-start
			if err := s.DeleteProject(s.ctx, s.tenant, "web"); err != nil && !errors.Is(err, fault.Conflict) {
				t.Errorf("DeleteProject() = %v, want nil or conflict", err)
			}
		})
		close(start)
		wg.Wait()
		if n := one[int](t, s, "SELECT count(*) FROM nofx.run r WHERE NOT EXISTS (SELECT FROM nofx.project p WHERE p.id = r.project_id)"); n != 0 {
			t.Fatalf("%d runs have no project", n)
		}
		s.exec(t, "UPDATE nofx.project SET slug = 'web-' || left(id::text, 8) || right(id::text, 12) WHERE slug = 'web'") // the next round has its own
	}
}
