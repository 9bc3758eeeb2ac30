package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// TicketLife is how long a ticket may wait for its request.
const TicketLife = 30 * time.Second

// TicketParameter is the query parameter that a ticket is given in.
const TicketParameter = "ticket"

// proof is what a principal has shown, without a secret: the key, or the verified claims of
// a token of an issuer. It says who the principal is, at any gateway.
type proof struct {
	Key    uuid.UUID       `json:"key,omitzero"`
	Issuer string          `json:"issuer,omitempty"`
	Claims json.RawMessage `json:"claims,omitempty"`
}

// errTicket is the same for every reason.
var errTicket = unauthenticated("the ticket is not valid: each is for one request, within seconds, of the stream that it was made for")

// NewTicket returns a ticket with which p can open the stream at target once, where no
// header can be sent, and when the ticket expires.
func (a *Authenticator) NewTicket(ctx context.Context, p *Principal, target *url.URL) (ticket string, expires time.Time, err error) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // it never fails
	ticket = base64.RawURLEncoding.EncodeToString(raw)
	shown, err := json.Marshal(p.proof)
	if err != nil {
		return "", expires, err
	}
	sum := sha256.Sum256([]byte(ticket))
	expires, err = a.store.CreateStreamTicket(ctx, p.Tenant, sum[:], targetOf(target), shown, TicketLife)
	return ticket, expires, err
}

// targetOf returns path and query of a stream in one form, without a ticket.
func targetOf(u *url.URL) string {
	query := u.Query()
	query.Del(TicketParameter)
	return u.Path + "?" + query.Encode()
}

// byTicket returns the principal of the ticket in the query of a request, with the errors of
// [Authenticator.Identify].
func (a *Authenticator) byTicket(r *http.Request, ticket string) (*Principal, error) {
	from := address(r, a.proxies)
	if err := a.tries.spent(from); err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(ticket))
	taken, err := a.store.TakeStreamTicket(r.Context(), sum[:], targetOf(r.URL))
	if errors.Is(err, fault.NotFound) {
		return nil, a.tries.failed(from, errTicket)
	}
	if err != nil {
		return nil, err
	}
	var shown proof
	if err := json.Unmarshal(taken.Proof, &shown); err != nil {
		return nil, err
	}
	var p *Principal
	if shown.Key != uuid.Nil {
		p, err = a.keys.proven(r.Context(), shown.Key)
	} else {
		p, err = a.tokens.proven(r.Context(), shown)
	}
	if err != nil {
		return nil, err
	}
	if p.Tenant != taken.Tenant {
		return nil, errTicket
	}
	p.Ticket = true
	return p, nil
}

// proven returns the principal of a key that was shown a moment ago.
func (k *keyring) proven(ctx context.Context, id uuid.UUID) (*Principal, error) {
	key, err := k.look(ctx, id, nil)
	if errors.Is(err, fault.NotFound) || err == nil && (key.Expired || key.Revoked) {
		return nil, errTicket
	}
	if err != nil {
		return nil, err
	}
	return k.principal(key, id, nil), nil
}

// proven returns the principal of a token whose claims were verified a moment ago.
func (t *tokens) proven(ctx context.Context, shown proof) (*Principal, error) {
	i, ok := t.issuers[shown.Issuer]
	if !ok {
		return nil, errTicket
	}
	c, err := readClaims(shown.Claims)
	if err == nil {
		err = c.check(i)
	}
	if err != nil {
		return nil, err
	}
	return i.caller(ctx, c)
}
