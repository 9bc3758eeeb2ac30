package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/config"
	"nofx.dev/shared/seal"
)

// settings are what a gateway reads from its environment.
type settings struct {
	config.Common
	HTTPAddr       string         `env:"NOFX_HTTP_ADDR" envDefault:":8080" doc:"where the API is served"`
	MetricsAddr    string         `env:"NOFX_METRICS_ADDR" envDefault:":9464" doc:"where metrics are served; never the API's port"`
	PublicURL      string         `env:"NOFX_PUBLIC_URL" want:"url" example:"https://nofx.example.com" doc:"base URL at which clients reach the API; keys of env dev are accepted only if it is a loopback address, or is unset with NOFX_ENV=development"`
	Proxies        []netip.Prefix `env:"NOFX_TRUSTED_PROXIES" example:"10.0.0.0/8" doc:"networks of the proxies in front of the gateway, such as 10.0.0.0/8, separated by commas; their X-Forwarded-For gives the caller's address, so that one caller's wrong credentials are not counted against all callers"`
	Origins        []string       `env:"NOFX_CORS_ORIGINS" example:"https://app.example.com" doc:"origins, such as https://app.example.com, separated by commas, whose pages may call the API from browsers; credentials are always sent in the Authorization header, never as cookies"`
	SupabaseURL    string         `env:"NOFX_SUPABASE_URL" want:"url" example:"https://PROJECT.supabase.co" doc:"Supabase project whose users' access tokens are accepted (see [Who may call](#who-may-call)); without it there are API keys only"`
	SupabaseJWKS   string         `env:"NOFX_SUPABASE_JWKS_URL" want:"url" example:"https://PROJECT.supabase.co/auth/v1/.well-known/jwks.json" doc:"where the project's public keys are, if not at /auth/v1/.well-known/jwks.json below its URL"`
	SupabaseSecret string         `env:"NOFX_SUPABASE_JWT_SECRET" secret:"true" doc:"legacy JWT secret of the project, for tokens by HS256; without it such tokens are refused"`
	SupabaseAud    string         `env:"NOFX_SUPABASE_JWT_AUDIENCE" envDefault:"authenticated" doc:"audience that the tokens must have"`
	SupabaseTenant string         `env:"NOFX_SUPABASE_TENANT_CLAIM" envDefault:"app_metadata.tenant" doc:"path of the claim with the slug or id of the user's tenant; never below user_metadata, which users edit"`
	SupabaseRole   string         `env:"NOFX_SUPABASE_ROLE_CLAIM" envDefault:"app_metadata.role" doc:"path of the claim with the user's role: viewer, operator, supervisor or admin; never below user_metadata"`
	OIDCIssuer     string         `env:"NOFX_OIDC_ISSUER" envDefault:"https://token.actions.githubusercontent.com" want:"url" doc:"issuer of the tokens of workflows, whose public keys are at /.well-known/jwks below it"`
	OIDCAudience   string         `env:"NOFX_OIDC_AUDIENCE" example:"nofx" doc:"audience that the tokens of workflows must have (see [Who may call](#who-may-call)); without it they are refused"`
	WebhookKey     string         `env:"NOFX_WEBHOOK_KEY" secret:"true" doc:"at least 32 random characters, the same on all gateways, from which the secrets of webhooks are derived; with another one all of them have to be entered at the forges again; without it there are no webhooks"`
	DBConns        int32          `env:"NOFX_DATABASE_MAX_CONNS" envDefault:"16" want:">=1" doc:"maximum number of connections to the database"`
	DrainDelay     time.Duration  `env:"NOFX_DRAIN_DELAY" envDefault:"3s" want:">=0s" doc:"time between failing readiness and refusing requests after SIGTERM, for load balancers"`
	LimitRate      float64        `env:"NOFX_LIMIT_RATE" envDefault:"100" want:">=0" doc:"requests per second of one caller (API key or user); bursts may have twice as many, and at least one; a request that creates, cancels, resumes or retries a run counts one more for every 10 steps of the run; 0: no limit"`
	TenantRate     float64        `env:"NOFX_LIMIT_TENANT_RATE" envDefault:"1000" want:">=0" doc:"the same for all callers of a tenant"`
	Streams        int            `env:"NOFX_LIMIT_STREAMS" envDefault:"50" want:">=0" doc:"open streams of one caller; 0: no limit"`
	TenantStreams  int            `env:"NOFX_LIMIT_TENANT_STREAMS" envDefault:"1000" want:">=0" doc:"the same for all callers of a tenant"`
	TotalStreams   int            `env:"NOFX_LIMIT_TOTAL_STREAMS" envDefault:"20000" want:">=0" doc:"the same for all callers of one gateway"`
}

// settingsTable returns the settings as rows of a Markdown table.
func settingsTable() string { return config.Table[settings]() }

// check returns what is wrong with settings that are right each by itself.
func (s settings) check() error {
	if n := len(s.WebhookKey); n > 0 && n < 32 {
		return errors.New("NOFX_WEBHOOK_KEY must have at least 32 characters")
	}
	if _, err := s.keys(); err != nil {
		return err
	}
	for _, origin := range s.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.ToLower(origin) != origin || strings.Contains(origin, "*") {
			return errors.New("NOFX_CORS_ORIGINS must be origins as browsers write them, in lower case and without a path; for example https://app.example.com")
		}
	}
	if err := errors.Join(s.supabase().Check(s.Env == "development"), s.oidc().Check(s.Env == "development")); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.HTTPAddr)
	other, same, otherErr := net.SplitHostPort(s.MetricsAddr)
	if err != nil || otherErr != nil || port != same || port == "0" {
		return nil
	}
	everywhere := func(host string) bool { ip := net.ParseIP(host); return host == "" || ip != nil && ip.IsUnspecified() }
	if host == other || everywhere(host) || everywhere(other) {
		return errors.New("NOFX_HTTP_ADDR and NOFX_METRICS_ADDR use the same port; give the metrics another, for example :9464")
	}
	return nil
}

// supabase returns whose tokens people authenticate with.
func (s settings) supabase() identity.Supabase {
	return identity.Supabase{
		URL: s.SupabaseURL, JWKS: s.SupabaseJWKS, Secret: []byte(s.SupabaseSecret), Audience: s.SupabaseAud,
		TenantClaim: s.SupabaseTenant, RoleClaim: s.SupabaseRole,
	}
}

// oidc returns whose tokens workflows authenticate with.
func (s settings) oidc() identity.OIDC {
	return identity.OIDC{Issuer: s.OIDCIssuer, Audience: s.OIDCAudience}
}

// keys returns the key that secrets are sealed with.
func (s settings) keys() (*seal.Key, error) {
	key, err := seal.New(s.KEK, s.Env == "production")
	if err != nil {
		return nil, fmt.Errorf("NOFX_KEK: %w", err)
	}
	return key, nil
}

// devKeys reports whether keys of a developer's own machine are taken: where
// nobody else can show them.
func (s settings) devKeys() bool {
	if s.PublicURL == "" {
		return s.Env == "development"
	}
	u, err := url.Parse(s.PublicURL)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// keyEnv returns the environment of the keys made here.
func (s settings) keyEnv() identity.KeyEnv {
	if s.Env == "development" && s.devKeys() {
		return identity.DevKey
	}
	return identity.LiveKey
}
