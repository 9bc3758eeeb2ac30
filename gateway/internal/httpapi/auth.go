package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// Principal is who is asking. Nothing behind it looks at keys.
type Principal struct {
	Tenant  uuid.UUID
	Slug    string // of the tenant
	Subject string // identifies it in events and decisions: key:<32 hex digits of the key's id>
	Name    string // of the key, for people; another key may have it later
	Role    api.Role
	Scopes  []string // of role service
	Key     uuid.UUID
	Expires *time.Time // of the key, if it does

	sum []byte // SHA-256 of its token
}

func (p *Principal) tenantID() string { return run.TenantID.Format(p.Tenant) }

// rank orders the roles of people. Service is none of them.
var rank = []api.Role{api.RoleViewer, api.RoleOperator, api.RoleSupervisor, api.RoleAdmin}

// allow is nil when p may, fault.Unauthenticated for nobody, else
// fault.Forbidden.
func (r rule) allow(p *Principal) error {
	switch {
	case p == nil:
		return unauthenticated("this needs an API key: Authorization: Bearer nofx_…")
	case r.anyKey:
		return nil
	case p.Role == api.RoleService:
		if r.scope == "" {
			return fault.New(fault.Forbidden, "forbidden", "this is for people: keys with scopes may not do it")
		}
		if !slices.Contains(p.Scopes, r.scope) {
			return fault.New(fault.Forbidden, "forbidden", "this needs the scope %s, which your key does not have", r.scope)
		}
		return nil
	}
	if have, least := slices.Index(rank, p.Role), slices.Index(rank, r.role); least < 0 || have < least {
		return fault.New(fault.Forbidden, "forbidden", "this needs the role %s; yours is %s", r.role, p.Role)
	}
	return nil
}

func unauthenticated(detail string) error {
	return fault.New(fault.Unauthenticated, "unauthenticated", "%s", detail)
}

type identityKey struct{}

// identity is what a request's key came to: a principal, nothing, or an error.
type identity struct {
	principal *Principal
	err       error
}

func identityOf(ctx context.Context) identity {
	id, _ := ctx.Value(identityKey{}).(identity)
	return id
}

// identify finds out who is asking, before anything else is done for them. What
// the caller may is decided later, where errors are answered.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var id identity
		if given := r.Header.Values("Authorization"); len(given) > 0 && strings.HasPrefix(r.URL.Path, "/api/") {
			id.principal, id.err = s.keys.identify(r.Context(), given, address(r, s.Proxies))
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, id)))
	})
}

// address is the client's: the peer's, or, as long as that is one of the trusted
// proxies, the one that it says it was called from (X-Forwarded-For, from the
// right). Nothing counts that somebody else may have written.
func address(r *http.Request, proxies []netip.Prefix) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	at := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(at.WithZone("")) }) {
			break
		}
		from, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = from.Unmap()
	}
	return at.String()
}

// How long a key is known without asking, so that a revoked one is refused within
// 5 s; and how many are.
const (
	keyTTL   = 4 * time.Second
	keysMost = 10_000
)

// keyring knows the keys shown lately.
type keyring struct {
	store   *postgres.DB
	devKeys bool
	failed  *limit.Rates // by address

	mu    sync.Mutex
	known map[uuid.UUID]knownKey
}

type knownKey struct {
	postgres.PresentedKey
	at time.Time
}

func newKeyring(store *postgres.DB, devKeys bool) *keyring {
	return &keyring{store: store, devKeys: devKeys, failed: limit.NewRates(10.0/60, 10), known: map[uuid.UUID]knownKey{}}
}

// identify is who shows the Authorization headers given: fault.Unauthenticated
// for every reason why they are nobody, fault.RateLimited for an address that
// tried too often, fault.Unavailable when it cannot be found out. What can be no
// key costs no query and does not count as a try: whoever else comes from the
// address would pay for it.
func (k *keyring) identify(ctx context.Context, given []string, address string) (*Principal, error) {
	token, ok := bearer(given)
	env, id, valid := parseToken(token)
	if !ok || !valid || env == DevKey && !k.devKeys {
		return nil, notValid()
	}
	// Who guesses ids does not get to ask the database for each.
	if wait, busy := k.failed.Empty(address); busy && !k.seen(id) {
		return nil, tooManyFailures(wait)
	}
	sum := sha256.Sum256([]byte(token))
	key, err := k.look(ctx, id, sum[:])
	if err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	if err != nil || subtle.ConstantTimeCompare(sum[:], key.SecretSHA256) != 1 || key.Expired || key.Revoked {
		return nil, k.refuse(address)
	}
	return &Principal{
		Tenant: key.Tenant, Slug: key.TenantSlug, Subject: "key:" + hex.EncodeToString(id[:]), Name: key.Name,
		Role: api.Role(key.Role), Scopes: key.Scopes, Key: id, Expires: key.ExpiresAt, sum: sum[:],
	}, nil
}

// bearer is the one token of the headers.
func bearer(given []string) (token string, ok bool) {
	if len(given) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	return token, strings.EqualFold(scheme, "Bearer")
}

// refuse gives every reason alike, until an address has tried too often.
func (k *keyring) refuse(address string) error {
	if wait, ok := k.failed.Take(address); !ok {
		return tooManyFailures(wait)
	}
	return notValid()
}

func notValid() error { return unauthenticated("the API key is not valid") }

func tooManyFailures(wait time.Duration) error {
	e := fault.New(fault.RateLimited, "rate-limited", "too many keys that are not valid")
	e.RetryAfter = wait
	return e
}

func (k *keyring) seen(id uuid.UUID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.known[id]
	return ok
}

// look is the key of an id, at most keyTTL old. To ask for it is to use it, where sum
// is that of its secret.
func (k *keyring) look(ctx context.Context, id uuid.UUID, sum []byte) (knownKey, error) {
	k.mu.Lock()
	key, ok := k.known[id]
	k.mu.Unlock()
	if ok && time.Since(key.at) < keyTTL {
		return key, nil
	}
	asked := time.Now()
	presented, err := k.store.PresentedKey(ctx, id, sum)
	if err != nil {
		return knownKey{}, err
	}
	key = knownKey{presented, asked}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= keysMost {
		clear(k.known)
	}
	k.known[id] = key
	return key, nil
}

// forget makes the next look ask.
func (k *keyring) forget(id uuid.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, id)
}

// still is what open streams ask: whether p's key would still be let in, to this
// operation.
func (s *Server) still(p *Principal, operation string) func(context.Context) error {
	return func(ctx context.Context) error {
		key, err := s.keys.look(ctx, p.Key, p.sum)
		if err != nil {
			return err
		}
		if key.Expired || key.Revoked {
			return unauthenticated("the API key is not valid any more")
		}
		now := *p
		now.Role, now.Scopes = api.Role(key.Role), key.Scopes
		return s.rules[operation].allow(&now)
	}
}

// whoami says who the caller is to this gateway.
func (s *Server) whoami(c echo.Context, p *Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	scopes := p.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	return answer(c, http.StatusOK, api.Whoami{Principal: api.Principal{
		TenantID: p.tenantID(), Tenant: p.Slug, Subject: p.Subject, Name: p.Name, Role: p.Role, Scopes: scopes, ExpiresAt: utc(p.Expires),
	}})
}
