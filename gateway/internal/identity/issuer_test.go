package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// signer is a private key of an issuer.
type signer struct {
	id        string
	algorithm jose.SignatureAlgorithm
	key       any
}

// rsaKeys are made once, since that takes time.
var rsaKeys = sync.OnceValue(func() (keys [2]*rsa.PrivateKey) {
	for i := range keys {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = key
	}
	return keys
})

func ecKey(t testing.TB, id string) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{id, jose.ES256, key}
}

func rsaKey(id string, n int) signer { return signer{id, jose.RS256, rsaKeys()[n]} }

// public returns the key as its set has it.
func (s signer) public() jose.JSONWebKey {
	key := jose.JSONWebKey{Key: s.key, KeyID: s.id, Algorithm: string(s.algorithm), Use: "sig"}
	return key.Public()
}

// testIssuer serves a key set, which tests may change, and signs tokens.
type testIssuer struct {
	*httptest.Server
	set     atomic.Value // any: the set
	broken  atomic.Bool
	fetches atomic.Int64
}

func newTestIssuer(t testing.TB, keys ...signer) *testIssuer {
	t.Helper()
	i := &testIssuer{}
	i.serve(keys...)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.fetches.Add(1)
		if i.broken.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(i.set.Load())
	}))
	t.Cleanup(i.Close)
	return i
}

// serve makes the set one of these keys.
func (i *testIssuer) serve(keys ...signer) {
	set := jose.JSONWebKeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.public())
	}
	i.set.Store(any(set))
}

// object is a JSON object; a value nil removes a name.
type object map[string]any

// with returns a copy of o with the names of changes.
func (o object) with(changes object) object {
	o = maps.Clone(o)
	for name, v := range changes {
		if v == nil {
			delete(o, name)
		} else {
			o[name] = v
		}
	}
	return o
}

func encoded(v any) string {
	text, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		text = string(b)
	}
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// token signs a header and claims, which are objects or texts as they stand, whatever they say.
func (s signer) token(head, claims any) string {
	input := encoded(head) + "." + encoded(claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(s.sign(input))
}

func (s signer) sign(input string) []byte {
	sum := sha256.Sum256([]byte(input))
	switch key := s.key.(type) {
	case *ecdsa.PrivateKey:
		r, v, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			panic(err)
		}
		return append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
	case *rsa.PrivateKey:
		sig, err := rsa.SignPKCS1v15(rand.Reader, key, 5, sum[:]) // 5: crypto.SHA256
		if err != nil {
			panic(err)
		}
		return sig
	case []byte:
		h := hmac.New(sha256.New, key)
		h.Write([]byte(input))
		return h.Sum(nil)
	}
	panic(fmt.Sprintf("a key of type %T", s.key))
}

func (s signer) header() object {
	return object{"alg": string(s.algorithm), "typ": "JWT", "kid": s.id}
}

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// personClaims are good claims of a person in tenant.
func personClaims(issuer, tenant string, now time.Time) object {
	return object{
		"iss": issuer + "/auth/v1", "aud": "authenticated", "sub": "0198c0de-0000-7000-8000-000000000001", "email": "ann@example.com", "role": "authenticated",
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(), "app_metadata": object{"tenant": tenant, "role": "operator"},
		"user_metadata": object{"tenant": "other", "role": "admin"},
	}
}

// flipped returns a token with one bit of its signature changed.
func flipped(token string) string {
	input, sig := token[:strings.LastIndex(token, ".")], token[strings.LastIndex(token, ".")+1:]
	b, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		panic(err)
	}
	b[len(b)/2] ^= 1
	return input + "." + base64.RawURLEncoding.EncodeToString(b)
}
