package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type sample struct {
	Common
	TTL      time.Duration  `env:"NOFX_LEASE_TTL" envDefault:"5s" want:">=1s" doc:"how long"`
	Slots    int            `env:"NOFX_WORKER_CONCURRENCY" envDefault:"16" want:">=1"`
	Rate     float64        `env:"NOFX_LIMIT_RATE" envDefault:"100" want:">=0"`
	Networks []netip.Prefix `env:"NOFX_TRUSTED_PROXIES" example:"10.0.0.0/8"`
	Public   string         `env:"NOFX_PUBLIC_URL" want:"url" example:"https://nofx.example.com"`
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
		{"missing", base()[1:], nil, "DATABASE_URL is not set; for example postgres://", nil},
		{"empty", base("DATABASE_URL="), nil, "DATABASE_URL is empty; for example postgres://", nil},
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

// Each setting that is wrong names itself, what it should be, and an example.
func TestWrongValues(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"NOFX_LEASE_TTL=soon":                    "NOFX_LEASE_TTL is not a duration; for example 5s",
		"NOFX_LEASE_TTL=5":                       "NOFX_LEASE_TTL is not a duration; for example 5s",
		"NOFX_LEASE_TTL=1s":                      "",
		"NOFX_LEASE_TTL=0":                       "NOFX_LEASE_TTL is less than 1s; for example 5s",
		"NOFX_LEASE_TTL=-1m":                     "NOFX_LEASE_TTL is less than 1s; for example 5s",
		"NOFX_WORKER_CONCURRENCY=many":           "NOFX_WORKER_CONCURRENCY is not a whole number; for example 16",
		"NOFX_WORKER_CONCURRENCY=0":              "NOFX_WORKER_CONCURRENCY is less than 1; for example 16",
		"NOFX_LIMIT_RATE=fast":                   "NOFX_LIMIT_RATE is not a number; for example 100",
		"NOFX_LIMIT_RATE=-1":                     "NOFX_LIMIT_RATE is less than 0; for example 100",
		"NOFX_LIMIT_RATE=NaN":                    "NOFX_LIMIT_RATE is less than 0; for example 100",
		"NOFX_LIMIT_RATE=0":                      "",
		"NOFX_DATABASE_POOLED=maybe":             "NOFX_DATABASE_POOLED is not true or false; for example false",
		"NOFX_TRUSTED_PROXIES=10.0.0.1":          "NOFX_TRUSTED_PROXIES is not a list of networks; for example 10.0.0.0/8",
		"NOFX_ENV=prod":                          "NOFX_ENV is not development or production",
		"NOFX_LOG_LEVEL=loud":                    "NOFX_LOG_LEVEL is not debug, info, warn or error",
		"NOFX_S3_ENDPOINT=127.0.0.1:9000":        "NOFX_S3_ENDPOINT is not an http or https URL; for example http://s3:9000",
		"NOFX_S3_ENDPOINT=http://s3:9000/x":      "NOFX_S3_ENDPOINT is a URL with a path, which goes into NOFX_S3_PATH_PREFIX; for example http://s3:9000",
		"NOFX_S3_ENDPOINT=http://s3:9000/":       "",
		"NOFX_PUBLIC_URL=nofx.example":           "NOFX_PUBLIC_URL is not an http or https URL; for example https://nofx.example.com",
		"NOFX_PUBLIC_URL=https://nofx.example/x": "",
	} {
		_, _, err := Load[sample](base(given))
		if got := fmt.Sprint(err); got != cmp.Or(want, "<nil>") {
			t.Errorf("Load(%s) = %s, want %q", given, got, want)
		}
	}
	_, _, err := Load[sample](base("NOFX_LEASE_TTL=0", "NOFX_ENV=prod"))
	if want := "NOFX_ENV is not development or production\nNOFX_LEASE_TTL is less than 1s; for example 5s"; err == nil || err.Error() != want {
		t.Errorf("Load() of two wrong settings = %v, want %s", err, want)
	}
}

// All that is wrong is said at once, with the unknown variables are ignored: one of them
// may be meant for what is missing.
func TestAllThatIsWrong(t *testing.T) {
	t.Parallel()
	environ := []string{"DATABASE_URL=postgres://x", "NOFX_S3_ENDPONT=http://s3", "NOFX_S3_ACCESS_KEY=a", "NOFX_S3_SECRET_KEY_FILE=/nowhere/at/all",
		"NOFX_LEASE_TTL=soon", "NOFX_ENV=prod", "NOFX_WORKER_CONCURRENCY=0", "NOFX_COLOUR_OF_THE_SKY=blue"}
	_, unknown, err := Load[sample](environ)
	got := fmt.Sprint(Wrong(unknown, err, nil, errors.New("two settings do not fit")))
	want := `NOFX_S3_SECRET_KEY_FILE: open /nowhere/at/all: no such file or directory
NOFX_S3_ENDPOINT is not set; for example http://s3:9000
NOFX_LEASE_TTL is not a duration; for example 5s
NOFX_ENV is not development or production
NOFX_WORKER_CONCURRENCY is less than 1; for example 16
two settings do not fit
NOFX_COLOUR_OF_THE_SKY is not a setting
NOFX_S3_ENDPONT is not a setting; did you mean NOFX_S3_ENDPOINT?`
	if got != want {
		t.Errorf("Wrong() = %s\nwant %s", got, want)
	}
	if err := Wrong(unknown, nil, nil); err != nil {
		t.Errorf("Wrong(%q) without a failure = %v, want nil", unknown, err)
	}
}

func TestErrorsShowNoValues(t *testing.T) {
	t.Parallel()
	for _, given := range []string{"NOFX_DATABASE_POOLED=hunter2", "NOFX_ENV=hunter2", "NOFX_S3_ENDPOINT=hunter2", "NOFX_S3_ENDPOINT=http://u:hunter2@s3/x", "NOFX_LEASE_TTL=hunter2"} {
		_, _, err := Load[sample](base(given))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Load(%s) = %v, want an error without the value", given, err)
		}
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
