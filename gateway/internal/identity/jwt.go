package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	json "github.com/go-json-experiment/json"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// leeway is how much the clocks of an issuer and of this process may differ.
const leeway = 30 * time.Second

var (
	errToken   = unauthenticated("the token is not valid")
	errExpired = unauthenticated("the token has expired")
	errRevoked = unauthenticated("the token was revoked")
)

// tokens are the JSON web tokens of the issuers that are trusted.
type tokens struct {
	issuers map[string]*issuer // by their names, the claim iss
	tries   tries
	good    *memo[[sha256.Size]byte, struct{}] // tokens that were verified, by their digests
}

// issuer is an issuer of tokens.
type issuer struct {
	name       string
	audience   func(string) bool // reports whether a token for this audience is for us
	algorithms []jose.SignatureAlgorithm
	secret     []byte // of HS256
	keys       *keySet
	now        func() time.Time

	// principal returns the caller that a verified token stands for.
	principal func(context.Context, claims) (*Principal, error)
}

func newTokens(cfg Config, t tries, people *subjects, trusts *memo[postgres.WorkflowClaims, []postgres.MetTrust]) *tokens {
	all := &tokens{issuers: map[string]*issuer{}, tries: t, good: newMemo[[sha256.Size]byte, struct{}](cfg.Now)}
	if cfg.Supabase.URL != "" {
		i := cfg.Supabase.issuer(people, cfg.Now)
		all.issuers[i.name] = i
	}
	if cfg.OIDC.Audience != "" {
		i := cfg.OIDC.issuer(&workflows{OIDC: cfg.OIDC, store: cfg.Store, subjects: people, known: trusts}, cfg.Now)
		all.issuers[i.name] = i
	}
	return all
}

// identify returns the principal of a token, with the errors of [Authenticator.Identify].
// A token that was good and has expired does not count as a try, since clients hold such.
func (t *tokens) identify(ctx context.Context, token, address string) (*Principal, error) {
	sum := sha256.Sum256([]byte(token))
	if err := t.tries.spent(address); err != nil && !t.good.has(sum) {
		return nil, err
	}
	p, err := t.verify(ctx, token)
	switch {
	case errors.Is(err, errExpired), errors.Is(err, errRevoked):
		return nil, err
	case fault.KindOf(err) == fault.Unauthenticated:
		return nil, t.tries.failed(address, err)
	case err != nil:
		return nil, err
	}
	_, err = t.good.get(sum, func() (struct{}, error) { return struct{}{}, nil })
	return p, err
}

func (t *tokens) verify(ctx context.Context, token string) (*Principal, error) {
	if len(t.issuers) == 0 {
		return nil, errToken
	}
	said, err := unverified(token)
	if err != nil {
		return nil, errToken
	}
	i, ok := t.issuers[said]
	if !ok {
		return nil, errToken
	}
	c, err := i.verify(ctx, token)
	if err != nil {
		return nil, err
	}
	return i.caller(ctx, c)
}

// caller returns the principal that verified claims stand for, now and later.
func (i *issuer) caller(ctx context.Context, c claims) (*Principal, error) {
	p, err := i.principal(ctx, c)
	if err != nil {
		return nil, err
	}
	p.proof = proof{Issuer: i.name, Claims: c.raw}
	p.current = func(ctx context.Context) (*Principal, error) {
		if !i.now().Before(c.expires) {
			return nil, errExpired
		}
		now, err := i.principal(ctx, c)
		if err == nil && (now.Tenant != p.Tenant || now.Subject != p.Subject) {
			return nil, errRevoked // what the token stood for is no longer there
		}
		return now, err
	}
	return p, nil
}

// compact is a signed token in the compact form.
var compact = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// unverified returns the issuer that a token names, which only says whose keys to try.
func unverified(token string) (issuer string, err error) {
	if !compact.MatchString(token) {
		return "", errToken
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return "", errToken
	}
	c, err := readClaims(payload)
	if err != nil {
		return "", err
	}
	issuer, _ = c.text("iss")
	return issuer, nil
}

// refused are the parameters of a header that would name another key, or change what is
// signed. They are refused rather than ignored: no issuer of ours has them.
var refused = []string{"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "cty", "enc"}

// header is the part of a token that says how it is signed.
type header struct {
	algorithm jose.SignatureAlgorithm
	key       string
}

// readHeader returns the header of a compact token, or errToken.
func readHeader(token string) (h header, err error) {
	first, _, _ := strings.Cut(token, ".")
	text, err := base64.RawURLEncoding.Strict().DecodeString(first)
	if err != nil {
		return h, errToken
	}
	c, err := readClaims(text)
	if err != nil {
		return h, errToken
	}
	for _, name := range refused {
		if _, there := c.all[name]; there {
			return h, errToken
		}
	}
	if typ, given := c.all["typ"]; given {
		if typ, _ := typ.(string); !strings.EqualFold(typ, "JWT") {
			return h, errToken
		}
	}
	algorithm, _ := c.text("alg")
	h.algorithm = jose.SignatureAlgorithm(algorithm)
	h.key, _ = c.text("kid")
	return h, nil
}

// verify returns the claims of a token of the issuer. It returns errToken or errExpired, or
// fault.Unavailable when the issuer's keys are not known.
func (i *issuer) verify(ctx context.Context, token string) (c claims, err error) {
	h, err := readHeader(token)
	if err != nil {
		return c, err
	}
	if !slices.Contains(i.algorithms, h.algorithm) {
		return c, errToken
	}
	var key any = i.secret
	if h.algorithm != jose.HS256 {
		if key, err = i.keys.key(ctx, keyName{h.algorithm, h.key}); err != nil {
			return c, err
		}
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{h.algorithm})
	if err != nil {
		return c, errToken
	}
	payload, err := signed.Verify(key)
	if err != nil {
		return c, errToken
	}
	if c, err = readClaims(payload); err != nil {
		return c, err
	}
	return c, c.check(i)
}

// check fills in the registered claims. It returns errToken for one that is missing or wrong.
func (c *claims) check(i *issuer) error {
	issuer, _ := c.text("iss")
	c.subject, _ = c.text("sub")
	exp, expOK := c.time("exp")
	iat, iatOK := c.time("iat")
	c.expires, c.issued = exp, iat
	if issuer != i.name || !slices.ContainsFunc(c.audience(), i.audience) || c.subject == "" || !expOK || !iatOK {
		return errToken
	}
	now := i.now()
	if _, given := c.all["nbf"]; given {
		if nbf, ok := c.time("nbf"); !ok || now.Add(leeway).Before(nbf) {
			return errToken
		}
	}
	if now.Add(leeway).Before(iat) || !exp.After(iat) {
		return errToken
	}
	if !now.Add(-leeway).Before(exp) {
		return errExpired
	}
	return nil
}

// claims are those of a token.
type claims struct {
	raw             []byte
	all             map[string]any
	subject         string
	issued, expires time.Time
}

// readClaims reads a JSON object, and refuses a name that it has twice.
func readClaims(text []byte) (c claims, err error) {
	if err := json.Unmarshal(text, &c.all); err != nil || c.all == nil {
		return c, errToken
	}
	c.raw = text
	return c, nil
}

// at returns the value at a path of names, or nil.
func (c claims) at(path ...string) any {
	var v any = c.all
	for _, name := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[name]
	}
	return v
}

// text returns the text at a path of names.
func (c claims) text(path ...string) (string, bool) {
	s, ok := c.at(path...).(string)
	return s, ok
}

// time returns the time of a numeric date.
func (c claims) time(name string) (time.Time, bool) {
	seconds, ok := c.all[name].(float64)
	if !ok || !(seconds > 0 && seconds < 1<<40) {
		return time.Time{}, false
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)), true
}

// audience returns the audiences, which are a text or a list of texts.
func (c claims) audience() (all []string) {
	switch aud := c.all["aud"].(type) {
	case string:
		return []string{aud}
	case []any:
		for _, v := range aud {
			s, ok := v.(string)
			if !ok {
				return nil
			}
			all = append(all, s)
		}
	}
	return all
}
