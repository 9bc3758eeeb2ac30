package main

import (
	"io"
	"strings"
	"testing"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/config"
)

// required are the settings that have no default.
var required = []string{"DATABASE_URL=postgres://db/nofx", "NOFX_S3_ENDPOINT=http://s3", "NOFX_S3_ACCESS_KEY=a", "NOFX_S3_SECRET_KEY=b"}

func TestDevKeys(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		env, public string
		taken       bool
		made        identity.KeyEnv
	}{
		{"production", "", false, identity.LiveKey},
		{"development", "", true, identity.DevKey},
		{"development", "http://127.0.0.1:8080", true, identity.DevKey},
		{"development", "http://[::1]:8080", true, identity.DevKey},
		{"development", "http://localhost", true, identity.DevKey},
		{"production", "http://localhost", true, identity.LiveKey},
		{"development", "https://nofx.example", false, identity.LiveKey},
		{"development", "http://127.0.0.1.nofx.example", false, identity.LiveKey},
		{"development", "http://10.0.0.1", false, identity.LiveKey},
	} {
		s := settings{Common: config.Common{Env: tc.env}, PublicURL: tc.public}
		if got := s.devKeys(); got != tc.taken {
			t.Errorf("devKeys(%s, %q) = %v, want %v", tc.env, tc.public, got, tc.taken)
		}
		if got := s.keyEnv(); got != tc.made {
			t.Errorf("keyEnv(%s, %q) = %s, want %s", tc.env, tc.public, got, tc.made)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for given, bad := range map[string]bool{
		"": false, "NOFX_ENV=development": false, "NOFX_ENV=staging": true, "NOFX_LIMIT_RATE=-1": true, "NOFX_LIMIT_STREAMS=-1": true,
		"NOFX_TRUSTED_PROXIES=10.0.0.0/8,fd00::/8": false, "NOFX_TRUSTED_PROXIES=lb.example": true,
		"NOFX_LIMIT_TENANT_STREAMS=-1": true, "NOFX_LIMIT_TOTAL_STREAMS=-1": true,
		"NOFX_DATABASE_MAX_CONNS=0": true, "NOFX_PUBLIC_URL=nofx.example": true, "NOFX_PUBLIC_URL=https://nofx.example": false,
		"NOFX_SUPABASE_URL=https://x.supabase.co": false, "NOFX_SUPABASE_URL=http://kong:8000": true, "NOFX_SUPABASE_URL=x.supabase.co": true,
		"NOFX_CORS_ORIGINS=https://a.example,http://localhost:3000": false, "NOFX_CORS_ORIGINS=*": true, "NOFX_CORS_ORIGINS=https://*.example": true, "NOFX_CORS_ORIGINS=https://a.example/": true,
		"NOFX_CORS_ORIGINS=null": true, "NOFX_CORS_ORIGINS=https://A.example": true,
		"NOFX_OIDC_AUDIENCE=nofx": false, "NOFX_OIDC_ISSUER=token.actions.githubusercontent.com": true,
		"NOFX_SUPABASE_JWKS_URL=https://x.supabase.co/keys": true, "NOFX_SUPABASE_JWT_SECRET=" + strings.Repeat("s", 40): true,
	} {
		s, _, err := config.Load[settings](append([]string{given}, required...))
		if err == nil {
			err = s.check()
		}
		if (err != nil) != bad {
			t.Errorf("check(%s) = %v, want an error %v", given, err, bad)
		}
	}
}

// All that keeps a gateway from starting is said at once.
func TestAllThatIsWrong(t *testing.T) {
	t.Parallel()
	err := command(t.Context(), t.Context(), nil, []string{"NOFX_S3_ENDPONT=http://s3", "NOFX_ENV=prod", "NOFX_METRICS_ADDR=:8080"}, io.Discard, io.Discard)
	for _, want := range []string{"DATABASE_URL is not set", "NOFX_S3_ENDPOINT is not set", "NOFX_ENV is not development", "use the same port",
		"NOFX_S3_ENDPONT is not a setting; did you mean NOFX_S3_ENDPOINT?"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("serve = %v\nwant %q in it", err, want)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := command(t.Context(), t.Context(), []string{"config"}, nil, &out, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| `DATABASE_URL`, `…_FILE` | required |", "| `NOFX_HTTP_ADDR` | :8080 |", "`NOFX_LIMIT_RATE`"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, &out)
		}
	}
	for line, want := range map[string]string{
		"bogus": `gateway: unknown command "bogus"`, "config all": `gateway: unknown command "config all"`,
		"queue stop step": `gateway queue: unknown command "stop step"`, "queue": "gateway queue: name a command",
		"tenant make acme": `gateway tenant: unknown command "make acme"`,
	} {
		out.Reset()
		err := command(t.Context(), t.Context(), strings.Fields(line), nil, &out, &out)
		if err == nil || !strings.HasPrefix(out.String(), want+"\n") || !strings.Contains(out.String(), "usage:") {
			t.Errorf("gateway %s = %v, %s, want an error, %q and the usage", line, err, &out, want)
		}
	}
	out.Reset()
	if err := command(t.Context(), t.Context(), []string{"--version"}, nil, &out, &out); err != nil || !strings.HasPrefix(out.String(), "gateway version ") {
		t.Errorf("gateway --version = %v, %q, want the version", err, &out)
	}
}
