package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"nofx.dev/shared/fault"
)

// TestS03_Rotation checks that a new key is found when its first token comes, and that a
// key which the issuer took back is refused after the next fetch, without a restart.
func TestS03_Rotation(t *testing.T) {
	first, second := ecKey(t, "1"), ecKey(t, "2")
	p := newPeople(t, nil, first)
	good := p.claims()
	accepted := func(s signer) bool {
		t.Helper()
		_, err := p.try(s.token(s.header(), good))
		if err != nil && !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("Identify(key %s) = %v, want nil or fault.Unauthenticated", s.id, err)
		}
		return err == nil
	}
	if !accepted(first) || accepted(second) {
		t.Error("before the rotation, want the first key accepted and the second refused")
	}
	p.issuer.serve(first, second)
	if accepted(second) {
		t.Error("the second key is accepted within a minute of the last fetch, want one fetch a minute")
	}
	p.clock.advance(fetchPause)
	if !accepted(second) || !accepted(first) {
		t.Error("while both keys are there, want both accepted")
	}
	p.issuer.serve(second)
	p.clock.advance(keysFresh)
	good = p.claims()
	if !accepted(second) { // it starts a fetch, and does not wait for it
		t.Error("the key that is left is refused, want it accepted")
	}
	p.settled()
	if accepted(first) {
		t.Error("a key that the issuer took back is accepted, want it refused")
	}
}

// settled waits until no fetch runs.
func (p *people) settled() {
	p.Helper()
	k := p.tokens.issuers[p.issuer.URL+"/auth/v1"].keys
	k.mu.Lock()
	running := k.running
	k.mu.Unlock()
	if running != nil {
		<-running
	}
}

// TestS03_OneFetchAMinute checks that guessed key ids cost the issuer one request a minute.
func TestS03_OneFetchAMinute(t *testing.T) {
	ec, other := ecKey(t, "e"), ecKey(t, "guessed")
	p := newPeople(t, nil, ec)
	if _, err := p.try(ec.token(ec.header(), p.claims())); err != nil {
		t.Fatal(err)
	}
	for minute := range 3 {
		for range 20 {
			if _, err := p.try(other.token(other.header().with(object{"kid": rand.Text()}), p.claims())); !errors.Is(err, fault.Unauthenticated) {
				t.Fatalf("Identify(an unknown key) = %v, want fault.Unauthenticated", err)
			}
		}
		if got, want := p.issuer.fetches.Load(), int64(1+minute); got != want {
			t.Errorf("%d fetches after %d minutes of unknown keys, want %d", got, minute, want)
		}
		p.clock.advance(fetchPause)
	}
}

// TestS03_Outage checks that an issuer which cannot be reached for an hour is not missed,
// that its keys are used no longer than the grace, and that it is tried again.
func TestS03_Outage(t *testing.T) {
	ec, unknown := ecKey(t, "e"), ecKey(t, "new")
	p := newPeople(t, nil, ec)
	accepted := func() error {
		_, err := p.try(ec.token(ec.header(), p.claims()))
		return err
	}
	if err := accepted(); err != nil {
		t.Fatal(err)
	}
	p.issuer.broken.Store(true)
	for minute := 0; minute <= 60; minute += 5 {
		if err := accepted(); err != nil {
			t.Errorf("Identify(a good token) %d minutes into an outage = %v, want nil", minute, err)
		}
		p.settled()
		p.clock.advance(5 * time.Minute)
	}
	if n := p.issuer.fetches.Load(); n < 5 || n > 70 {
		t.Errorf("%d fetches in an hour, want some, and at most one a minute", n)
	}
	if _, err := p.try(unknown.token(unknown.header(), p.claims())); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Identify(a key that may be new) in an outage = %v, want fault.Unavailable", err)
	}
	p.clock.advance(keysGrace)
	if err := accepted(); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Identify(a good token) past the grace = %v, want fault.Unavailable", err)
	}
	p.issuer.broken.Store(false)
	p.clock.advance(fetchPause)
	if err := accepted(); err != nil {
		t.Errorf("Identify(a good token) after the outage = %v, want nil", err)
	}
	if keysGrace < time.Hour || fetchMost > 5*time.Second || fetchPause < time.Minute {
		t.Errorf("grace %s, timeout %s, pause %s, want an hour, 5 s and a minute", keysGrace, fetchMost, fetchPause)
	}
}

// TestS03_StartInAnOutage checks that a gateway which never had keys says so, and gets them
// as soon as it can.
func TestS03_StartInAnOutage(t *testing.T) {
	ec := ecKey(t, "e")
	p := newPeople(t, nil, ec)
	p.issuer.broken.Store(true)
	token := ec.token(ec.header(), p.claims())
	if _, err := p.try(token); !errors.Is(err, fault.Unavailable) {
		t.Errorf("Identify(a good token) without keys = %v, want fault.Unavailable", err)
	}
	p.issuer.broken.Store(false)
	p.clock.advance(fetchRetry)
	if _, err := p.try(token); err != nil {
		t.Errorf("Identify(a good token) after the outage = %v, want nil", err)
	}
}

// TestS03_KeySets checks what a set may be, and which of its keys are used.
func TestS03_KeySets(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, rs := ecKey(t, "e"), rsaKey("r", 1)
	odd := func(k jose.JSONWebKey) string {
		text, err := k.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	short := &rsa.PublicKey{N: rs.key.(*rsa.PrivateKey).Primes[0], E: 65537} // 1024 bits
	set := strings.Join([]string{
		odd(ec.public()), odd(rs.public()), `{"kty":"unheard-of","kid":"x"}`, `{"kty":"oct","k":"c2VjcmV0","kid":"o","alg":"HS256"}`, `7`,
		odd(jose.JSONWebKey{Key: &p384.PublicKey, KeyID: "p384", Use: "sig"}), odd(jose.JSONWebKey{Key: short, KeyID: "short", Use: "sig"}),
		odd(jose.JSONWebKey{Key: ec.key, KeyID: "private"}), odd(jose.JSONWebKey{Key: ec.public().Key, KeyID: "enc", Use: "enc"}),
		odd(jose.JSONWebKey{Key: ec.public().Key}), odd(jose.JSONWebKey{Key: ec.public().Key, KeyID: "mixed", Algorithm: "RS256"}),
	}, ",")
	var body string
	status, followed := http.StatusOK, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			followed = true
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	k := newKeySet(server.URL, time.Now)
	body = `{"keys":[` + set + `]}`
	got, err := k.get()
	if len(got) != 2 || got[keyName{jose.ES256, "e"}] == nil || got[keyName{jose.RS256, "r"}] == nil || err != nil {
		t.Errorf("get() = %v, %v, want the keys e and r", got, err)
	}
	for name, tc := range map[string]struct {
		status int
		body   string
	}{
		"an error": {500, body}, "a redirect": {302, body}, "no JSON": {200, "<html>"}, "no keys": {200, `{"keys":[]}`}, "another object": {200, `{}`},
		"too long": {200, `{"keys":[` + set + strings.Repeat(" ", keySetBytes) + `]}`},
	} {
		status, body = tc.status, tc.body
		if got, err := k.get(); err == nil {
			t.Errorf("get() of %s = %v, want an error", name, got)
		}
	}
	if followed {
		t.Error("a redirect was followed, want it refused")
	}
}
