package postgres_test

import (
	"bytes"
	"testing"
	"time"

	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// Whoever knows the id of a key, which is no secret, has not used the key.
func TestKeyUse(t *testing.T) {
	t.Parallel()
	s := setup(t)
	k := postgres.APIKey{ID: run.NewID(), Name: "ci", Prefix: "nofx_live_x", Role: "admin", CreatedBy: "x"}
	secret, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	if err := s.CreateAPIKey(s.ctx, s.tenant, k, secret); err != nil {
		t.Fatal(err)
	}
	used := func() *time.Time {
		return one[*time.Time](t, s, "SELECT last_used_at FROM nofx.api_key WHERE id = '"+k.ID.String()+"'")
	}
	present := func(sum []byte) {
		t.Helper()
		if got, err := s.PresentedKey(s.ctx, k.ID, sum); err != nil || got.Name != k.Name || !bytes.Equal(got.SecretSHA256, secret) {
			t.Errorf("PresentedKey() = %+v, %v, want the key", got, err)
		}
	}
	present(other)
	present(nil)
	if at := used(); at != nil {
		t.Errorf("last_used_at after another secret and none = %v, want none", at)
	}
	present(secret)
	at := used()
	if at == nil {
		t.Fatal("last_used_at after its secret = none, want a time")
	}
	present(secret)
	if again := used(); !again.Equal(*at) {
		t.Errorf("last_used_at after its secret within a minute = %v, want still %v", again, at)
	}
	s.exec(t, "UPDATE nofx.api_key SET last_used_at = last_used_at - interval '2 minutes'")
	present(other)
	present(secret)
	if again := used(); again.Before(*at) {
		t.Errorf("last_used_at after its secret two minutes later = %v, want a new one", again)
	}
}
