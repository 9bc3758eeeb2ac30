package identity

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"nofx.dev/gateway/api"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// Principal is a caller that has been identified. Nothing behind it looks at
// credentials.
type Principal struct {
	Tenant  uuid.UUID
	Slug    string // of the tenant
	Subject string // identifies it in events and decisions: key:<32 hex digits of the key's id>, user:<subject of the token>, oidc:<32 hex digits of the trust's id>
	Name    string // for people: of the key, or the address of the person; another subject may have it later
	Role    api.Role
	Scopes  []string // of role service
	// Repository is the one on GitHub, OWNER/NAME, whose reviews are all that the principal
	// may see and do; "": there is no such limit.
	Repository string
	Expires    *time.Time // of its credentials, if they do

	Ticket bool // it showed a ticket, which opens one stream

	proof   proof
	current func(context.Context) (*Principal, error) // as the credentials are now
}

// TenantID returns the id of the principal's tenant as clients see it.
func (p *Principal) TenantID() string { return run.TenantID.Format(p.Tenant) }

// Via returns how the principal authenticated, in the words of the audit log: api-key, jwt,
// oidc or ticket.
func (p *Principal) Via() string {
	kind, _, _ := strings.Cut(p.Subject, ":")
	switch {
	case p.Ticket:
		return "ticket"
	case kind == "user":
		return "jwt"
	case kind == "oidc":
		return "oidc"
	}
	return "api-key"
}

// roles are the roles of people, each with the rights of those before it. Service is
// not among them.
var roles = []api.Role{api.RoleViewer, api.RoleOperator, api.RoleSupervisor, api.RoleAdmin}

// Allow returns nil when p is a person with at least the role least, or a service with
// the scope; else fault.Forbidden. An empty scope is for people alone.
func (p *Principal) Allow(least api.Role, scope string) error {
	if p.Role == api.RoleService {
		if scope == "" {
			return fault.New(fault.Forbidden, "forbidden", "a person's key is required; keys with scopes cannot do this")
		}
		if !slices.Contains(p.Scopes, scope) {
			return fault.New(fault.Forbidden, "forbidden", "scope %s is required; your key does not have it", scope)
		}
		return nil
	}
	if have, need := slices.Index(roles, p.Role), slices.Index(roles, least); need < 0 || have < need {
		return fault.New(fault.Forbidden, "forbidden", "role %s is required; your role is %s", least, p.Role)
	}
	return nil
}
