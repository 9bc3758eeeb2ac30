package identity

import (
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzToken checks that no text is taken for a token of an issuer without its signature,
// and that a header which names its own key is never read.
func FuzzToken(f *testing.F) {
	s := ecKey(f, "k")
	claims := object{"iss": "https://issuer.example", "sub": "s", "aud": "a", "iat": 1, "exp": 2}
	f.Add(s.token(s.header(), claims))
	for _, head := range []object{
		{"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256", "jwk": object{"kty": "EC"}}, {"alg": "ES256", "jku": "https://x.example"},
		{"alg": "ES256", "crit": []string{"b64"}}, {"alg": "ES256", "typ": "at+jwt"}, {"alg": []string{"ES256"}},
	} {
		f.Add(encoded(head) + "." + encoded(claims) + ".AA")
	}
	f.Add("a.b.c")
	f.Add("e30.e30.")
	i := &issuer{name: "https://issuer.example", algorithms: []jose.SignatureAlgorithm{jose.HS256}, secret: []byte("0123456789abcdef0123456789abcdef"), audience: func(string) bool { return true }, now: newClock().now}
	f.Fuzz(func(t *testing.T, token string) {
		_, _ = unverified(token)
		h, err := readHeader(token)
		if err == nil && slices.Contains(i.algorithms, h.algorithm) {
			if c, err := i.verify(t.Context(), token); err == nil {
				t.Errorf("verify(%q) = %v, want it refused: nobody signed it", token, c.all)
			}
		}
	})
}
