package postgres_test

import (
	"fmt"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// S24: changes of settings, projects and secrets are in the audit log, and none that was
// refused; of a secret the log has what is stored, as a digest.
func TestS24_Administration(t *testing.T) {
	t.Parallel()
	s := setup(t)
	seal := func(text string) func(postgres.SealedSecret) ([]byte, error) {
		return func(next postgres.SealedSecret) ([]byte, error) {
			return []byte(fmt.Sprint(text, next.Version)), nil
		}
	}
	if _, err := s.ChangeSettings(s.ctx, s.tenant, []byte(`{"retention_days": 7, "network_hosts": ["a.example:443"]}`), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ChangeSettings(s.ctx, s.tenant, []byte(`{"retention_days": 0}`), nil); err == nil {
		t.Error("ChangeSettings(0) = nil, want it refused")
	}
	if _, err := s.CreateProject(s.ctx, s.tenant, "web"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteProject(s.ctx, s.tenant, "default"); err == nil {
		t.Error("DeleteProject(default) = nil, want it refused")
	}
	if err := s.DeleteProject(s.ctx, s.tenant, "web"); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		if _, err := s.SetSecret(s.ctx, s.tenant, "TOKEN", nil, seal(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteSecret(s.ctx, s.tenant, "TOKEN"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteSecret(s.ctx, s.tenant, "TOKEN"); err == nil {
		t.Error("DeleteSecret() again = nil, want it refused")
	}
	got := all[string](t, s, `SELECT actor || ' ' || act || ' ' || object || ' ' || coalesce((before - 'sealed_sha256')::text, '-') || ' ' || coalesce((after - 'sealed_sha256')::text, '-') FROM nofx.audit WHERE tenant_id = $1 ORDER BY seq`, s.tenant)
	want := []string{
		`tester settings.change settings - {"network_hosts": ["a.example:443"], "retention_days": 7}`,
		`tester project.create web - {"project": "web"}`, `tester project.delete web {"project": "web"} -`,
		`tester secret.set TOKEN - {"version": 1}`, `tester secret.set TOKEN {"version": 1} {"version": 2}`, `tester secret.delete TOKEN {"version": 2} -`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("audit log =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := one[int](t, s, "SELECT count(*) FROM nofx.secret_past"); n != 0 {
		t.Errorf("%d earlier values are left after the deletion, want none", n)
	}
}

// A tenant has at most 200 secrets, and of one at most the last 20 earlier values are kept.
func TestSecretLimits(t *testing.T) {
	t.Parallel()
	s := setup(t)
	seal := func(postgres.SealedSecret) ([]byte, error) { return []byte("sealed"), nil }
	for i := range 25 {
		x, err := s.SetSecret(s.ctx, s.tenant, "A", nil, seal)
		if err != nil || x.Version != int64(i+1) {
			t.Fatalf("SetSecret() = %+v, %v, want version %d", x, err, i+1)
		}
	}
	if got := one[string](t, s, "SELECT count(*) || ' from ' || min(version) FROM nofx.secret_past"); got != "20 from 5" {
		t.Errorf("earlier values = %s, want 20 from 5", got)
	}
	s.exec(t, "INSERT INTO nofx.secret (tenant_id, name, version, sealed, created_by, updated_by) SELECT $1, 'S' || n, 1, 'x', 'a', 'a' FROM generate_series(1, 199) n", s.tenant)
	_, err := s.SetSecret(s.ctx, s.tenant, "B", nil, seal)
	wantKind(t, "SetSecret() of one more", err, fault.Conflict, "secret-limit")
	if _, err := s.SetSecret(s.ctx, s.tenant, "A", nil, seal); err != nil {
		t.Errorf("SetSecret() of one that there is = %v, want nil", err)
	}
	// An error of the seal changes nothing.
	if _, err := s.SetSecret(s.ctx, s.tenant, "A", nil, func(postgres.SealedSecret) ([]byte, error) { return nil, fault.Unavailable }); err == nil {
		t.Error("SetSecret() without a key = nil, want an error")
	}
	if x, err := s.Secret(s.ctx, s.tenant, "A"); err != nil || x.Version != 26 {
		t.Errorf("Secret() = %+v, %v, want version 26", x, err)
	}
}
