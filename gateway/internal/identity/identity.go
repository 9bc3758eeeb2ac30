package identity

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// Config has the parts of an authenticator.
type Config struct {
	Store   *postgres.DB
	DevKeys bool           // keys of KeyEnv dev are taken
	Proxies []netip.Prefix // whose X-Forwarded-For counts
}

// Authenticator finds out who makes requests. Make it with [New].
type Authenticator struct {
	proxies []netip.Prefix
	keys    *keyring
}

// New returns an authenticator.
func New(cfg Config) *Authenticator {
	return &Authenticator{proxies: cfg.Proxies, keys: newKeyring(cfg.Store, cfg.DevKeys)}
}

// Identify returns the caller of a request, or nil when the request has no credentials. It
// returns fault.Unauthenticated for credentials that are not valid, without the
// reason, fault.RateLimited for an address that tried too often, and fault.Unavailable
// when the caller cannot be found out.
func (a *Authenticator) Identify(r *http.Request) (*Principal, error) {
	if given := r.Header.Values("Authorization"); len(given) > 0 {
		return a.keys.identify(r.Context(), given, address(r, a.proxies))
	}
	return nil, nil
}

// Current returns p with the role and scopes that it has now, for streams and other work
// that outlives its request. It returns fault.Unauthenticated when p's credentials are not
// valid any more.
func (a *Authenticator) Current(ctx context.Context, p *Principal) (*Principal, error) {
	return a.keys.current(ctx, p)
}

// Forget makes the next use of a key ask the database about it.
func (a *Authenticator) Forget(key uuid.UUID) { a.keys.forget(key) }

func unauthenticated(detail string) error {
	return fault.New(fault.Unauthenticated, "unauthenticated", "%s", detail)
}
