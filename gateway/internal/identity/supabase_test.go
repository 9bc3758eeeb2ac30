package identity

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

var secret = []byte(strings.Repeat("s", 40))

// people is an authenticator that takes tokens of an issuer.
type people struct {
	*bench
	issuer *testIssuer
	clock  *clock
	slug   string
}

func newPeople(t *testing.T, change func(*Supabase), keys ...signer) *people {
	t.Helper()
	b := newBench(t, true)
	p := &people{bench: b, issuer: newTestIssuer(t, keys...), clock: newClock()}
	if err := b.pg.Admin.QueryRow(t.Context(), "SELECT slug FROM nofx.tenant WHERE tenant_id = $1", b.tenant).Scan(&p.slug); err != nil {
		t.Fatal(err)
	}
	cfg := Supabase{URL: p.issuer.URL, Audience: "authenticated", TenantClaim: "app_metadata.tenant", RoleClaim: "app_metadata.role"}
	if change != nil {
		change(&cfg)
	}
	b.Authenticator = New(Config{Store: b.db, DevKeys: true, Supabase: cfg, Now: p.clock.now})
	return p
}

func (p *people) claims() object { return personClaims(p.issuer.URL, p.slug, p.clock.now()) }

// callers makes each caller come from another address, so that one's failures do not limit
// the next.
var callers atomic.Int64

func (p *people) try(token string) (*Principal, error) {
	r := &http.Request{Header: http.Header{"Authorization": {"Bearer " + token}}, RemoteAddr: fmt.Sprintf("198.51.100.1:%d", 1+callers.Add(1))}
	n := callers.Load()
	r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16&255, n>>8&255, n&255)
	return p.Identify(r.WithContext(p.Context()))
}

func TestSupabaseTokens(t *testing.T) {
	ec, rsa := ecKey(t, "e"), rsaKey("r", 0)
	p := newPeople(t, func(s *Supabase) { s.Secret = secret }, ec, rsa)
	hs := signer{"", jose.HS256, secret}
	good := p.claims()
	for name, token := range map[string]string{
		"ES256": ec.token(ec.header(), good), "RS256": rsa.token(rsa.header(), good), "HS256": hs.token(hs.header().with(object{"kid": nil}), good),
		"HS256 with a key id": hs.token(hs.header().with(object{"kid": "e"}), good),
		"no typ":              ec.token(ec.header().with(object{"typ": nil}), good),
		"typ in lower case":   ec.token(ec.header().with(object{"typ": "jwt"}), good),
		"tenant by id":        ec.token(ec.header(), good.with(object{"app_metadata": object{"tenant": run.TenantID.Format(p.tenant), "role": "operator"}})),
		"tenant by uuid":      ec.token(ec.header(), good.with(object{"app_metadata": object{"tenant": p.tenant.String(), "role": "operator"}})),
		"audiences":           ec.token(ec.header(), good.with(object{"aud": []string{"x", "authenticated"}})),
		"skewed clocks":       ec.token(ec.header(), good.with(object{"iat": p.clock.now().Add(leeway / 2).Unix(), "nbf": p.clock.now().Add(leeway / 2).Unix()})),
		"just expired":        ec.token(ec.header(), good.with(object{"exp": p.clock.now().Add(-leeway / 2).Unix()})),
	} {
		got, err := p.try(token)
		if err != nil || got.Tenant != p.tenant || got.Slug != p.slug || got.Subject != "user:"+good["sub"].(string) || got.Name != "ann@example.com" || got.Role != api.RoleOperator || got.Expires == nil {
			t.Errorf("Identify(%s) = %+v, %v, want ann, operator of %s", name, got, err, p.slug)
		}
	}
	nameless, err := p.try(ec.token(ec.header(), good.with(object{"email": "a\u202eb", "sub": "x"})))
	if err != nil || nameless.Name != "x" {
		t.Errorf("Identify(an address with a control character) = %+v, %v, want the name x", nameless, err)
	}
	if leeway > time.Minute {
		t.Errorf("leeway = %s, want at most a minute", leeway)
	}
}

// TestS01_BadTokens checks that no token of the corpus is anybody's. Each differs from a
// good one in one thing.
func TestS01_BadTokens(t *testing.T) {
	ec, rsa1 := ecKey(t, "e"), rsaKey("r", 0)
	p := newPeople(t, nil, ec, rsa1)
	good := p.claims()
	if _, err := p.try(ec.token(ec.header(), good)); err != nil {
		t.Fatalf("Identify(the good token) = %v, want nil", err)
	}
	// What a header would like to be fetched.
	var fetched atomic.Int64
	own := ecKey(t, "own")
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		fmt.Fprintf(w, `{"keys":[]}`)
	}))
	defer evil.Close()

	publicRSA := &rsa1.key.(*rsa.PrivateKey).PublicKey
	der, _ := x509.MarshalPKIXPublicKey(publicRSA)
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	asJWK, _ := json.Marshal(rsa1.public())
	with := func(changes object) string { return ec.token(ec.header().with(changes), good) }
	ownWith := func(changes object) string { return own.token(own.header().with(changes), good) }
	none := func(alg string) string { return encoded(object{"alg": alg, "typ": "JWT"}) + "." + encoded(good) + "." }
	signed := ec.token(ec.header(), good)
	parts := strings.Split(signed, ".")
	zero := encoded(ec.header()) + "." + encoded(good) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	corpus := map[string]string{
		// Algorithms.
		"alg none": none("none"), "alg None": none("None"), "alg nOnE": none("nOnE"), "alg empty": none(""),
		"alg none with a signature":  with(object{"alg": "none"}),
		"no alg":                     with(object{"alg": nil}),
		"alg a number":               with(object{"alg": 256}),
		"alg ES384":                  with(object{"alg": "ES384"}),
		"alg ES512":                  with(object{"alg": "ES512"}),
		"alg RS384":                  rsa1.token(rsa1.header().with(object{"alg": "RS384"}), good),
		"alg PS256":                  rsa1.token(rsa1.header().with(object{"alg": "PS256"}), good),
		"alg EdDSA":                  with(object{"alg": "EdDSA"}),
		"alg es256":                  with(object{"alg": "es256"}),
		"RS256 with a key for ES256": rsa1.token(rsa1.header().with(object{"kid": "e"}), good),
		"ES256 with a key for RS256": ec.token(ec.header().with(object{"kid": "r"}), good),
		"ES256 said to be RS256":     with(object{"alg": "RS256", "kid": "r"}),
		// Confusion of public keys with secrets, and secrets where none is set.
		"HS256 with the public key as PEM": signer{"r", jose.HS256, asPEM}.token(object{"alg": "HS256", "typ": "JWT", "kid": "r"}, good),
		"HS256 with the public key as DER": signer{"r", jose.HS256, der}.token(object{"alg": "HS256", "typ": "JWT", "kid": "r"}, good),
		"HS256 with the public key as JWK": signer{"r", jose.HS256, asJWK}.token(object{"alg": "HS256", "typ": "JWT", "kid": "r"}, good),
		"HS256 with an empty secret":       signer{"", jose.HS256, []byte{}}.token(object{"alg": "HS256", "typ": "JWT"}, good),
		"HS256 where no secret is set":     signer{"", jose.HS256, secret}.token(object{"alg": "HS256", "typ": "JWT"}, good),
		"HS512":                            signer{"", jose.HS512, secret}.token(object{"alg": "HS512", "typ": "JWT"}, good),
		// Keys that the token brings along.
		"jwk": ownWith(object{"kid": nil, "jwk": own.public()}), "jwk beside a good key": with(object{"jwk": own.public()}),
		"jku": ownWith(object{"jku": evil.URL}), "jku beside a good key": with(object{"jku": evil.URL}),
		"x5u": ownWith(object{"x5u": evil.URL}), "x5u beside a good key": with(object{"x5u": evil.URL}),
		"x5c": ownWith(object{"x5c": []string{base64.StdEncoding.EncodeToString(der)}}), "x5c beside a good key": with(object{"x5c": []string{}}),
		"kid of nobody": ownWith(nil), "kid of the good key, other signature": own.token(ec.header(), good),
		"no kid": with(object{"kid": nil}), "kid empty": with(object{"kid": ""}), "kid a path": with(object{"kid": "../../dev/null"}),
		"kid a query": with(object{"kid": "' OR 1=1 --"}), "kid a list": with(object{"kid": []string{"e"}}),
		// Headers.
		"crit": with(object{"crit": []string{"exp"}}), "crit b64": with(object{"crit": []string{"b64"}, "b64": false}), "b64": with(object{"b64": false}),
		"zip": with(object{"zip": "DEF"}), "cty": with(object{"cty": "JWT"}), "typ at+jwt": with(object{"typ": "at+jwt"}), "typ JOSE": with(object{"typ": "JOSE"}), "typ a number": with(object{"typ": 1}),
		"header twice alg": ec.token(`{"alg":"none","alg":"ES256","kid":"e"}`, good),
		"header no object": ec.token(`["ES256"]`, good),
		"header not JSON":  ec.token(`alg=ES256`, good),
		"header null":      ec.token(`null`, good),
		"header with rest": ec.token(`{"alg":"ES256","kid":"e"} {}`, good),
		"header not UTF-8": ec.token("{\"alg\":\"ES256\",\"kid\":\"e\",\"x\":\"\xff\"}", good),
		// Signatures.
		"no signature": parts[0] + "." + parts[1] + ".", "a changed bit": flipped(signed), "zeros": zero, "half a signature": signed[:len(signed)-43],
		"a signature of ASN.1":    parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString([]byte{0x30, 6, 2, 1, 0, 2, 1, 0}),
		"claims of another token": parts[0] + "." + encoded(good.with(object{"sub": "admin"})) + "." + parts[2],
		"four parts":              signed + ".x", "two parts": parts[0] + "." + parts[1], "an encrypted token": strings.Repeat("e30.", 4) + "e30",
		"JSON serialization": `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"padding":            parts[0] + "." + parts[1] + "." + parts[2] + "==", "standard base64": parts[0] + "." + parts[1] + "." + strings.ReplaceAll(parts[2], "_", "/") + "+",
		"a space within": parts[0] + ". " + parts[1] + "." + parts[2], "an empty payload": ec.token(ec.header(), ""), "payload no object": ec.token(ec.header(), `"x"`), "payload null": ec.token(ec.header(), "null"),
	}
	if len(corpus) < 40 {
		t.Fatalf("%d bad tokens, want at least 40", len(corpus))
	}
	for name, token := range corpus {
		if got, err := p.try(token); got != nil || !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("Identify(%s) = %+v, %v, want fault.Unauthenticated", name, got, err)
		}
	}
	if n := fetched.Load(); n != 0 {
		t.Errorf("%d addresses in headers were followed, want none", n)
	}
	t.Logf("%d bad tokens refused", len(corpus))
}

// TestS01_Secret checks that the secret opens tokens by HS256 and nothing else.
func TestS01_Secret(t *testing.T) {
	ec := ecKey(t, "e")
	p := newPeople(t, func(s *Supabase) { s.Secret = secret }, ec)
	good := p.claims()
	der, _ := x509.MarshalPKIXPublicKey(&ec.key.(*ecdsa.PrivateKey).PublicKey)
	for name, key := range map[string][]byte{"the public key": der, "another secret": []byte(strings.Repeat("x", 40)), "nothing": {}} {
		token := signer{"e", jose.HS256, key}.token(object{"alg": "HS256", "typ": "JWT", "kid": "e"}, good)
		if got, err := p.try(token); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("Identify(HS256 with %s) = %+v, %v, want fault.Unauthenticated", name, got, err)
		}
	}
	// A symmetric key in the set is none.
	p.issuer.set.Store(any(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte(strings.Repeat("k", 40)), KeyID: "o", Algorithm: "HS256", Use: "sig"}, ec.public()}}))
	token := signer{"o", jose.HS256, []byte(strings.Repeat("k", 40))}.token(object{"alg": "HS256", "typ": "JWT", "kid": "o"}, good)
	if got, err := p.try(token); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("Identify(HS256 with a key of the set) = %+v, %v, want fault.Unauthenticated", got, err)
	}
}

// TestS02_Claims checks issuer, audience, times and subject, and that tenant and role come
// from app_metadata alone.
func TestS02_Claims(t *testing.T) {
	ec := ecKey(t, "e")
	p := newPeople(t, nil, ec)
	good, now := p.claims(), p.clock.now()
	later, earlier := now.Add(2*leeway).Unix(), now.Add(-2*leeway).Unix()
	app := func(v any) object { return object{"app_metadata": v} }
	for name, tc := range map[string]struct {
		changes object
		want    fault.Kind
	}{
		"no iss": {object{"iss": nil}, fault.Unauthenticated}, "other iss": {object{"iss": "https://evil.example/auth/v1"}, fault.Unauthenticated},
		"iss with a slash": {object{"iss": p.issuer.URL + "/auth/v1/"}, fault.Unauthenticated}, "iss a list": {object{"iss": []string{p.issuer.URL + "/auth/v1"}}, fault.Unauthenticated},
		"no aud": {object{"aud": nil}, fault.Unauthenticated}, "other aud": {object{"aud": "anon"}, fault.Unauthenticated}, "aud in capitals": {object{"aud": "AUTHENTICATED"}, fault.Unauthenticated},
		"aud of numbers": {object{"aud": []any{1, "authenticated"}}, fault.Unauthenticated}, "aud empty": {object{"aud": []string{}}, fault.Unauthenticated}, "aud an object": {object{"aud": object{"authenticated": true}}, fault.Unauthenticated},
		"expired": {object{"iat": now.Add(-time.Hour).Unix(), "exp": earlier}, fault.Unauthenticated}, "no exp": {object{"exp": nil}, fault.Unauthenticated}, "exp a text": {object{"exp": "9999999999"}, fault.Unauthenticated},
		"exp too large": {object{"exp": 1e300}, fault.Unauthenticated}, "exp negative": {object{"exp": -1}, fault.Unauthenticated}, "exp before iat": {object{"iat": now.Unix(), "exp": now.Unix() - 1}, fault.Unauthenticated},
		"not yet": {object{"nbf": later}, fault.Unauthenticated}, "nbf a text": {object{"nbf": "0"}, fault.Unauthenticated},
		"no iat": {object{"iat": nil}, fault.Unauthenticated}, "iat to come": {object{"iat": later}, fault.Unauthenticated}, "iat a text": {object{"iat": "0"}, fault.Unauthenticated},
		"no sub": {object{"sub": nil}, fault.Unauthenticated}, "sub empty": {object{"sub": ""}, fault.Unauthenticated}, "sub with a space": {object{"sub": "a b"}, fault.Unauthenticated},
		"sub too long": {object{"sub": strings.Repeat("x", 129)}, fault.Unauthenticated}, "sub a number": {object{"sub": 7}, fault.Unauthenticated}, "sub with a NUL": {object{"sub": "a\x00b"}, fault.Unauthenticated},
		// Who the token is for is known, and has no rights.
		"no app_metadata":          {app(nil), fault.Forbidden},
		"no tenant":                {app(object{"role": "admin"}), fault.Forbidden},
		"tenant of nobody":         {app(object{"tenant": "nobody", "role": "admin"}), fault.Forbidden},
		"tenant a list":            {app(object{"tenant": []string{p.slug}, "role": "admin"}), fault.Forbidden},
		"tenant no slug":           {app(object{"tenant": p.slug + "' OR true --", "role": "admin"}), fault.Forbidden},
		"tenant unknown":           {app(object{"tenant": run.TenantID.Format(run.NewID()), "role": "admin"}), fault.Forbidden},
		"no role":                  {app(object{"tenant": p.slug}), fault.Forbidden},
		"role of nobody":           {app(object{"tenant": p.slug, "role": "root"}), fault.Forbidden},
		"role service":             {app(object{"tenant": p.slug, "role": "service"}), fault.Forbidden},
		"role in capitals":         {app(object{"tenant": p.slug, "role": "Admin"}), fault.Forbidden},
		"claims of the user alone": {object{"app_metadata": nil, "user_metadata": object{"tenant": p.slug, "role": "admin"}, "tenant": p.slug}, fault.Forbidden},
	} {
		if got, err := p.try(ec.token(ec.header(), good.with(tc.changes))); got != nil || fault.KindOf(err) != tc.want {
			t.Errorf("Identify(%s) = %+v, %v, want %s", name, got, err, tc.want)
		}
	}
	twice := strings.Replace(`{"iss":"ISS","aud":"authenticated","sub":"a","sub":"b","iat":1,"exp":9999999999}`, "ISS", p.issuer.URL+"/auth/v1", 1)
	if got, err := p.try(ec.token(ec.header(), twice)); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("Identify(a claim given twice) = %+v, %v, want fault.Unauthenticated", got, err)
	}
}

// TestS02_ClaimPaths checks that a path of claims that people edit themselves is refused.
func TestS02_ClaimPaths(t *testing.T) {
	t.Parallel()
	good := Supabase{URL: "https://x.supabase.co", Audience: "authenticated", TenantClaim: "app_metadata.tenant", RoleClaim: "app_metadata.role", Secret: secret}
	for name, tc := range map[string]struct {
		change func(*Supabase)
		want   string // in the error
	}{
		"good":                       {func(*Supabase) {}, ""},
		"own claims":                 {func(s *Supabase) { s.TenantClaim, s.RoleClaim = "tenant_id", "nofx.role" }, ""},
		"tenant of user_metadata":    {func(s *Supabase) { s.TenantClaim = "user_metadata.tenant" }, "NOFX_SUPABASE_TENANT_CLAIM must not be below user_metadata"},
		"role of user_metadata":      {func(s *Supabase) { s.RoleClaim = "user_metadata.role" }, "NOFX_SUPABASE_ROLE_CLAIM must not be below user_metadata"},
		"role of raw_user_meta_data": {func(s *Supabase) { s.RoleClaim = "raw_user_meta_data.role" }, "NOFX_SUPABASE_ROLE_CLAIM must not be"},
		"no path":                    {func(s *Supabase) { s.RoleClaim = "app_metadata." }, "NOFX_SUPABASE_ROLE_CLAIM is not the path"},
		"empty path":                 {func(s *Supabase) { s.TenantClaim = "" }, "NOFX_SUPABASE_TENANT_CLAIM is not the path"},
		"no audience":                {func(s *Supabase) { s.Audience = "" }, "NOFX_SUPABASE_JWT_AUDIENCE"},
		"short secret":               {func(s *Supabase) { s.Secret = secret[:31] }, "NOFX_SUPABASE_JWT_SECRET must have"},
		"secret alone":               {func(s *Supabase) { s.URL = "" }, "NOFX_SUPABASE_URL is not set"},
		"no TLS":                     {func(s *Supabase) { s.URL = "http://kong:8000" }, "NOFX_SUPABASE_URL must begin with https://"},
		"keys without TLS":           {func(s *Supabase) { s.JWKS = "http://kong:8000/k" }, "NOFX_SUPABASE_JWKS_URL must begin with https://"},
		"loopback":                   {func(s *Supabase) { s.URL = "http://127.0.0.1:54321" }, ""},
		"nothing":                    {func(s *Supabase) { *s = Supabase{} }, ""},
	} {
		s := good
		tc.change(&s)
		err := s.Check(false)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("Check(%s) = %v, want %q", name, err, tc.want)
		}
	}
	if err := (Supabase{URL: "http://kong:8000", Audience: "a", TenantClaim: "t", RoleClaim: "r"}).Check(true); err != nil {
		t.Errorf("Check(no TLS in development) = %v, want nil", err)
	}
}

// TestS42_Revoked checks that tokens which were issued before their subject was revoked are
// refused within 5 s, in that tenant alone, and later ones accepted.
func TestS42_Revoked(t *testing.T) {
	ec := ecKey(t, "e")
	p := newPeople(t, nil, ec)
	old := ec.token(ec.header(), p.claims())
	who, err := p.try(old)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := p.pg.Tenant(t)
	if _, err := p.db.RevokeSubject(t.Context(), elsewhere, who.Subject, "key:x", ""); err != nil {
		t.Fatal(err)
	}
	p.clock.advance(memoTTL)
	if _, err := p.try(old); err != nil {
		t.Errorf("Identify(a token whose subject another tenant revoked) = %v, want nil", err)
	}
	s, err := p.db.RevokeSubject(t.Context(), p.tenant, who.Subject, "key:x", "stolen")
	if err != nil || s.RevokedBefore == nil || s.Reason != "stolen" || s.Name != "ann@example.com" || s.SeenAt == nil {
		t.Fatalf("RevokeSubject(%s) = %+v, %v, want ann, revoked", who.Subject, s, err)
	}
	p.clock.advance(memoTTL) // another process would ask again then
	if got, err := p.try(old); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("Identify(a revoked token) = %+v, %v, want fault.Unauthenticated", got, err)
	}
	if _, err := p.Current(t.Context(), who); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("Current(of a revoked token) = %v, want fault.Unauthenticated", err)
	}
	p.clock.advance(time.Minute)
	young := ec.token(ec.header(), p.claims().with(object{"iat": p.clock.now().Unix()}))
	if _, err := p.try(young); err != nil {
		t.Errorf("Identify(a token that was issued later) = %v, want nil", err)
	}
	// Its first token may be a stolen one.
	if _, err := p.db.RevokeSubject(t.Context(), p.tenant, "user:unseen", "key:x", ""); err != nil {
		t.Fatal(err)
	}
	if got, err := p.try(ec.token(ec.header(), p.claims().with(object{"sub": "unseen", "iat": time.Now().Add(-time.Minute).Unix()}))); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("Identify(a token of one who was revoked unseen) = %+v, %v, want fault.Unauthenticated", got, err)
	}
}

// TestTokenTries checks that guessed tokens are counted by address, while good ones go on to
// work from there, and expired ones are no guesses.
func TestTokenTries(t *testing.T) {
	ec := ecKey(t, "e")
	p := newPeople(t, nil, ec)
	good := ec.token(ec.header(), p.claims())
	if _, err := p.as("Bearer " + good); err != nil {
		t.Fatal(err)
	}
	expired := ec.token(ec.header(), p.claims().with(object{"iat": p.clock.now().Add(-time.Hour).Unix(), "exp": p.clock.now().Add(-2 * leeway).Unix()}))
	for range 30 {
		if _, err := p.as("Bearer " + expired); !errors.Is(err, fault.Unauthenticated) {
			t.Fatalf("Identify(an expired token) = %v, want fault.Unauthenticated", err)
		}
	}
	for i := range 11 {
		want := fault.Unauthenticated
		if i == 10 {
			want = fault.RateLimited
		}
		if _, err := p.as("Bearer " + flipped(good)); fault.KindOf(err) != want {
			t.Errorf("Identify(bad token %d) = %v, want %s", i+1, err, want)
		}
	}
	if _, err := p.as("Bearer " + good); err != nil {
		t.Errorf("Identify(a token known to be good) = %v, want nil", err)
	}
	other := ec.token(ec.header(), p.claims().with(object{"sub": "other"}))
	if _, err := p.as("Bearer " + other); !errors.Is(err, fault.RateLimited) {
		t.Errorf("Identify(a new token from there) = %v, want fault.RateLimited", err)
	}
}
