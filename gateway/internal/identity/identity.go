package identity

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// Config has the parts of an authenticator.
type Config struct {
	Store    *postgres.DB
	DevKeys  bool           // keys of KeyEnv dev are taken
	Proxies  []netip.Prefix // whose X-Forwarded-For counts
	Supabase Supabase
	OIDC     OIDC
	Now      func() time.Time // nil: time.Now
}

// Authenticator finds out who makes requests. Make it with [New].
type Authenticator struct {
	store   *postgres.DB
	proxies []netip.Prefix
	tries   tries
	keys    *keyring
	tokens  *tokens
	people  *subjects
	trusts  *memo[postgres.WorkflowClaims, []postgres.MetTrust]
}

// New returns an authenticator.
func New(cfg Config) *Authenticator {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t, people, trusts := newTries(), newSubjects(cfg.Store, cfg.Now), newMemo[postgres.WorkflowClaims, []postgres.MetTrust](cfg.Now)
	return &Authenticator{
		store: cfg.Store, proxies: cfg.Proxies, tries: t,
		keys:   &keyring{store: cfg.Store, devKeys: cfg.DevKeys, tries: t, known: newMemo[uuid.UUID, postgres.PresentedKey](cfg.Now)},
		tokens: newTokens(cfg, t, people, trusts),
		people: people, trusts: trusts,
	}
}

// Identify returns the caller of a request, or nil when the request has no credentials. It
// returns fault.Unauthenticated for credentials that are not valid, without the
// reason, fault.Forbidden for a valid token that gives no rights here, fault.RateLimited
// for an address that tried too often, and fault.Unavailable when the caller cannot be
// found out.
func (a *Authenticator) Identify(r *http.Request) (*Principal, error) {
	given := r.Header.Values("Authorization")
	if len(given) == 0 {
		if ticket := r.URL.Query().Get(TicketParameter); ticket != "" {
			return a.byTicket(r, ticket)
		}
		return nil, nil
	}
	token, ok := bearer(given)
	if !ok {
		return nil, notValid()
	}
	from := address(r, a.proxies)
	if strings.Count(token, ".") == 2 {
		return a.tokens.identify(r.Context(), token, from)
	}
	return a.keys.identify(r.Context(), token, from)
}

// bearer returns the one token of the headers.
func bearer(given []string) (token string, ok bool) {
	if len(given) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	return token, strings.EqualFold(scheme, "Bearer")
}

// Current returns p with the role and scopes that it has now, for streams and other work
// that outlives its request. It returns fault.Unauthenticated when p's credentials are not
// valid any more.
func (a *Authenticator) Current(ctx context.Context, p *Principal) (*Principal, error) {
	return p.current(ctx)
}

// Spent returns fault.RateLimited for a request from an address that has failed too often at
// something, or with "" at anything else, and else nil.
func (a *Authenticator) Spent(r *http.Request, at string) error {
	return a.tries.spent(address(r, a.proxies) + at)
}

// Failed counts a request that failed to authenticate at something, and returns wrong, or
// fault.RateLimited where it was one too many of its address. With "" it counts with wrong
// API keys and tokens.
func (a *Authenticator) Failed(r *http.Request, at string, wrong error) error {
	return a.tries.failed(address(r, a.proxies)+at, wrong)
}

// Forget makes the next use of a key ask the database about it.
func (a *Authenticator) Forget(key uuid.UUID) { a.keys.known.forget(key) }

// ForgetSubject makes the next use of a subject's tokens in a tenant ask the database about
// it.
func (a *Authenticator) ForgetSubject(tenant uuid.UUID, subject string) {
	a.people.known.forgetAll(func(of presented, found postgres.PresentedSubject) bool {
		return of.subject == subject && found.Tenant == tenant
	})
}

// ForgetTrusts makes the next use of each workflow's token ask the database about it.
func (a *Authenticator) ForgetTrusts() {
	a.trusts.forgetAll(func(postgres.WorkflowClaims, []postgres.MetTrust) bool { return true })
}

func unauthenticated(detail string) error {
	return fault.New(fault.Unauthenticated, "unauthenticated", "%s", detail)
}

func forbidden(format string, args ...any) error {
	return fault.New(fault.Forbidden, "forbidden", format, args...)
}
