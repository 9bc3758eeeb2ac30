package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/limit"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

const (
	keyTTL   = 4 * time.Second // how long a key is kept without asking; a revoked one is refused within 5 s
	keysMost = 10_000          // that are kept
)

// keyring keeps the API keys that were shown lately.
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

// identify returns the principal of the key in the Authorization headers given, with the
// errors of [Authenticator.Identify]. What cannot be a key costs no query and does not
// count as a try: everybody else at the address would pay for it.
func (k *keyring) identify(ctx context.Context, given []string, address string) (*Principal, error) {
	token, ok := bearer(given)
	env, id, valid := parseToken(token)
	if !ok || !valid || env == DevKey && !k.devKeys {
		return nil, notValid()
	}
	// Guessed ids do not get to the database.
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

// bearer returns the one token of the headers.
func bearer(given []string) (token string, ok bool) {
	if len(given) != 1 {
		return "", false
	}
	scheme, token, _ := strings.Cut(given[0], " ")
	return token, strings.EqualFold(scheme, "Bearer")
}

// refuse returns the error of a wrong key: the same for every reason, until an address
// has tried too often.
func (k *keyring) refuse(address string) error {
	if wait, ok := k.failed.Take(address); !ok {
		return tooManyFailures(wait)
	}
	return notValid()
}

func notValid() error { return unauthenticated("the API key is not valid") }

func tooManyFailures(wait time.Duration) error {
	e := fault.New(fault.RateLimited, "rate-limited", "too many requests with invalid API keys")
	e.RetryAfter = wait
	return e
}

func (k *keyring) seen(id uuid.UUID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.known[id]
	return ok
}

// look returns the key of an id as it was at most keyTTL ago. Asking the database counts
// as a use of the key when sum is that of its secret.
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

// forget makes the next look ask the database.
func (k *keyring) forget(id uuid.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, id)
}

// current returns p with the role and scopes that its key has now.
func (k *keyring) current(ctx context.Context, p *Principal) (*Principal, error) {
	key, err := k.look(ctx, p.Key, p.sum)
	if err != nil {
		return nil, err
	}
	if key.Expired || key.Revoked {
		return nil, unauthenticated("the API key is no longer valid")
	}
	now := *p
	now.Role, now.Scopes = api.Role(key.Role), key.Scopes
	return &now, nil
}
