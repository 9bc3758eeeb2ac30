package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type sample struct {
	Common
	TTL time.Duration `env:"NOFX_LEASE_TTL" envDefault:"5s" doc:"how long"`
}

func base(more ...string) []string {
	return append([]string{"DATABASE_URL=postgres://x", "NOFX_S3_ENDPOINT=http://s3", "NOFX_S3_ACCESS_KEY=a", "NOFX_S3_SECRET_KEY=b"}, more...)
}

func TestLoad(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	withoutSecret := base()[:3]
	tests := []struct {
		name    string
		environ []string
		unknown []string
		err     string // part of it
		check   func(sample) bool
	}{
		{"defaults", base(), nil, "", func(s sample) bool { return s.TTL == 5*time.Second && s.S3.Bucket == "nofx" && s.Env == "production" }},
		{"set", base("NOFX_LEASE_TTL=2s", "NOFX_ENV=development"), nil, "", func(s sample) bool { return s.TTL == 2*time.Second && s.Env == "development" }},
		{"misspelt", base("NOFX_LEESE_TTL=2s", "OTHER=1"), []string{"NOFX_LEESE_TTL"}, "", nil},
		{"of another process", base("NOFX_HTTP_ADDR=:1", "NOFX_API_KEY_FILE=/x"), nil, "", nil},
		{"secret by file", append(slices.Clone(withoutSecret), "NOFX_S3_SECRET_KEY_FILE="+file), nil, "", func(s sample) bool { return s.S3.SecretKey == "from a file" }},
		{"secret twice", base("NOFX_S3_SECRET_KEY_FILE=" + file), nil, "both NOFX_S3_SECRET_KEY and NOFX_S3_SECRET_KEY_FILE", nil},
		{"no such file", append(slices.Clone(withoutSecret), "NOFX_S3_SECRET_KEY_FILE="+file+"x"), nil, "NOFX_S3_SECRET_KEY_FILE", nil},
		{"missing", base()[1:], nil, "DATABASE_URL is not set", nil},
		{"no duration", base("NOFX_LEASE_TTL=soon"), nil, "NOFX_LEASE_TTL is no time.Duration", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, unknown, err := Load[sample](tt.environ)
			if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("Load(%q) error = %v, want %q in it", tt.environ, err, tt.err)
			}
			if !slices.Equal(unknown, tt.unknown) {
				t.Errorf("Load(%q) unknown = %q, want %q", tt.environ, unknown, tt.unknown)
			}
			if tt.check != nil && !tt.check(cfg) {
				t.Errorf("Load(%q) = %+v, want other values", tt.environ, cfg)
			}
		})
	}
}

func TestErrorsShowNoValues(t *testing.T) {
	t.Parallel()
	_, _, err := Load[sample](base("NOFX_DATABASE_POOLED=hunter2"))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Load() error = %v, want one without the value", err)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	table := Table[sample]()
	for _, want := range []string{"| `DATABASE_URL`, `…_FILE` | required |", "| `NOFX_LEASE_TTL` | 5s | how long |", "| `NOFX_S3_PATH_PREFIX` | – |"} {
		if !strings.Contains(table, want) {
			t.Errorf("Table() = %s, want %q in it", table, want)
		}
	}
}
