package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// keyring keeps the API keys that were shown lately.
type keyring struct {
	store   *postgres.DB
	devKeys bool
	tries   tries
	known   *memo[uuid.UUID, postgres.PresentedKey]
}

// identify returns the principal of an API key, with the errors of [Authenticator.Identify].
// What cannot be a key costs no query and does not count as a try: everybody else at the
// address would pay for it.
func (k *keyring) identify(ctx context.Context, token, address string) (*Principal, error) {
	env, id, valid := parseToken(token)
	if !valid || env == DevKey && !k.devKeys {
		return nil, notValid()
	}
	// Guessed ids do not get to the database.
	if err := k.tries.spent(address); err != nil && !k.known.has(id) {
		return nil, err
	}
	sum := sha256.Sum256([]byte(token))
	key, err := k.look(ctx, id, sum[:])
	if err != nil && !errors.Is(err, fault.NotFound) {
		return nil, err
	}
	if err != nil || subtle.ConstantTimeCompare(sum[:], key.SecretSHA256) != 1 || key.Expired || key.Revoked {
		return nil, k.tries.failed(address, notValid())
	}
	return k.principal(key, id, sum[:]), nil
}

// principal returns the principal of a key. sum is that of its text, or nil, with which
// later looks are no uses of the key.
func (k *keyring) principal(key postgres.PresentedKey, id uuid.UUID, sum []byte) *Principal {
	p := &Principal{
		Tenant: key.Tenant, Slug: key.TenantSlug, Subject: "key:" + hex.EncodeToString(id[:]), Name: key.Name,
		Role: api.Role(key.Role), Scopes: key.Scopes, Expires: key.ExpiresAt,
		proof: proof{Key: id},
	}
	p.current = func(ctx context.Context) (*Principal, error) { return k.current(ctx, *p, id, sum) }
	return p
}

func notValid() error { return unauthenticated("the API key is not valid") }

// look returns the key of an id as it was at most memoTTL ago. Asking the database counts
// as a use of the key when sum is that of its secret.
func (k *keyring) look(ctx context.Context, id uuid.UUID, sum []byte) (postgres.PresentedKey, error) {
	return k.known.get(id, func() (postgres.PresentedKey, error) { return k.store.PresentedKey(ctx, id, sum) })
}

// current returns p with the role and scopes that its key has now.
func (k *keyring) current(ctx context.Context, p Principal, id uuid.UUID, sum []byte) (*Principal, error) {
	key, err := k.look(ctx, id, sum)
	if err != nil {
		return nil, err
	}
	if key.Expired || key.Revoked {
		return nil, unauthenticated("the API key is no longer valid")
	}
	p.Role, p.Scopes = api.Role(key.Role), key.Scopes
	return &p, nil
}
