// Package config reads a process's settings from its environment and nothing
// else, into a struct that names and documents each.
//
// A field carries `env:"NAME"`, with `,required` where there is no default,
// perhaps `envDefault:"…"`, and `doc:"…"`. A setting whose field is tagged
// `secret:"true"` may also be given as NAME_FILE, the path of a file that holds
// it. [Table] is the documentation of the settings, made from the same tags.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/caarlos0/env/v11"
)

// S3 is the object storage that both processes use.
type S3 struct {
	Endpoint       string `env:"NOFX_S3_ENDPOINT,required,notEmpty" doc:"base URL of the S3 service"`
	PublicEndpoint string `env:"NOFX_S3_PUBLIC_ENDPOINT" doc:"base URL that signed URLs carry, when clients reach the service by another name"`
	Bucket         string `env:"NOFX_S3_BUCKET" envDefault:"nofx" doc:"bucket, private"`
	Region         string `env:"NOFX_S3_REGION" envDefault:"us-east-1" doc:"region"`
	AccessKey      string `env:"NOFX_S3_ACCESS_KEY,required,notEmpty" secret:"true" doc:"access key"`
	SecretKey      string `env:"NOFX_S3_SECRET_KEY,required,notEmpty" secret:"true" doc:"secret key"`
	PathPrefix     string `env:"NOFX_S3_PATH_PREFIX" doc:"path before the bucket, as /storage/v1/s3"`
}

// Common are the settings of every process.
type Common struct {
	DatabaseURL string `env:"DATABASE_URL,required,notEmpty" secret:"true" doc:"database, as role nofx_app"`
	Pooled      bool   `env:"NOFX_DATABASE_POOLED" envDefault:"false" doc:"DATABASE_URL is a transaction pooler: no prepared statements"`
	Env         string `env:"NOFX_ENV" envDefault:"production" doc:"development or production"`
	Log         string `env:"NOFX_LOG_LEVEL" envDefault:"info" doc:"debug, info, warn or error"`
	S3          S3
}

// Names are all our variables besides those of [Common]: of the gateway, of the
// worker, of the CLI and of tests. Processes are often started in one
// environment, so each knows what is meant for the others. A test of each
// process compares its settings with the list.
var Names = []string{
	"NOFX_HTTP_ADDR", "NOFX_METRICS_ADDR", "NOFX_PUBLIC_URL", "NOFX_TRUSTED_PROXIES", "NOFX_DATABASE_MAX_CONNS", "NOFX_DRAIN_DELAY",
	"NOFX_LIMIT_RATE", "NOFX_LIMIT_TENANT_RATE", "NOFX_LIMIT_STREAMS", "NOFX_LIMIT_TENANT_STREAMS", "NOFX_LIMIT_TOTAL_STREAMS",
	"NOFX_WORKER_QUEUES", "NOFX_WORKER_CONCURRENCY", "NOFX_LEASE_TTL", "NOFX_DRAIN_GRACE", "NOFX_INFRASTRUCTURE_BUDGET",
	"NOFX_WORKSPACE_DIR", "NOFX_STEP_ENV", "NOFX_GIT_ALLOW", "NOFX_EGRESS_ALLOW", "NOFX_SANDBOX_MIN_TIER", "NOFX_DATABASE_LISTEN_URL",
	"NOFX_LLM_PROVIDER", "NOFX_LLM_MODEL", "NOFX_LLM_BASE_URL", "NOFX_LLM_API_KEY", "NOFX_LLM_FALLBACK", "NOFX_LLM_PRICES",
	"NOFX_LLM_MAX_TOKENS", "NOFX_LLM_RECORD",
	"NOFX_URL", "NOFX_API_KEY",
	"NOFX_TEST", "NOFX_FAILPOINTS", "NOFX_FAILPOINT_SEED",
}

// Load reads T, a struct with the tags of the package comment, from environ,
// which has the form of os.Environ. unknown are the variables named NOFX_… that
// T does not have: misspelt, or of another process. An error names variables and
// never shows a value.
func Load[T any](environ []string) (cfg T, unknown []string, err error) {
	fields := Settings[T]()
	byName := make(map[string]Setting, len(fields))
	for _, f := range fields {
		byName[f.Name] = f
	}
	vars := env.ToMap(environ)
	for name, value := range vars {
		setting, isFile := strings.CutSuffix(name, "_FILE")
		f, ok := byName[setting]
		switch {
		case isFile && ok && f.Secret:
			if vars[setting] != "" {
				return cfg, nil, fmt.Errorf("both %s and %s are set", setting, name)
			}
			content, err := os.ReadFile(value)
			if err != nil {
				return cfg, nil, fmt.Errorf("%s: %w", name, err)
			}
			vars[setting] = strings.TrimRight(string(content), "\r\n")
		case strings.HasPrefix(name, "NOFX_") && byName[name].Name == "" &&
			!slices.Contains(Names, name) && !(isFile && slices.Contains(Names, setting)):
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: vars}); err != nil {
		return cfg, unknown, withoutValues(err, fields)
	}
	return cfg, unknown, nil
}

// withoutValues is err in the names of variables: a value may be a secret, or
// stand where one was meant to be.
func withoutValues(err error, fields []Setting) error {
	var wrong []string
	var all env.AggregateError
	if !errors.As(err, &all) {
		return errors.New("settings cannot be read")
	}
	for _, e := range all.Errors {
		var parse env.ParseError
		var unset env.VarIsNotSetError
		var empty env.EmptyVarError
		switch {
		case errors.As(e, &parse):
			i := slices.IndexFunc(fields, func(s Setting) bool { return s.field == parse.Name })
			wrong = append(wrong, fmt.Sprintf("%s is no %s", fields[i].Name, parse.Type))
		case errors.As(e, &unset):
			wrong = append(wrong, unset.Key+" is not set")
		case errors.As(e, &empty):
			wrong = append(wrong, empty.Key+" is empty")
		default:
			wrong = append(wrong, "a variable cannot be read")
		}
	}
	return errors.New("settings: " + strings.Join(wrong, "; "))
}

// Lookup is a getenv over environ, which has the form of os.Environ.
func Lookup(environ []string) func(name string) string {
	vars := env.ToMap(environ)
	return func(name string) string { return vars[name] }
}

// Setting is one variable of a process.
type Setting struct {
	Name     string
	Default  string
	Doc      string
	Required bool
	Secret   bool

	field string
}

// Settings are the variables of T in the order of its fields.
func Settings[T any]() []Setting { return settings(reflect.TypeFor[T]()) }

func settings(t reflect.Type) (all []Setting) {
	for f := range t.Fields() {
		tag := f.Tag.Get("env")
		if tag == "" && f.Type.Kind() == reflect.Struct {
			all = append(all, settings(f.Type)...)
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		all = append(all, Setting{
			Name: name, Default: f.Tag.Get("envDefault"), Doc: f.Tag.Get("doc"),
			Required: strings.Contains(options, "required"), Secret: f.Tag.Get("secret") == "true", field: f.Name,
		})
	}
	return all
}

// Table is the settings of T as rows of a Markdown table: name, default, meaning.
func Table[T any]() string {
	var b strings.Builder
	for _, s := range Settings[T]() {
		def := cmp.Or(s.Default, "–")
		if s.Required {
			def = "required"
		}
		name := "`" + s.Name + "`"
		if s.Secret {
			name += ", `…_FILE`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, def, s.Doc)
	}
	return b.String()
}
