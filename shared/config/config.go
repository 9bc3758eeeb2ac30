// Package config reads a process's settings from its environment and nothing
// else, into a struct that names and documents each.
//
// A field carries `env:"NAME"`, with `,required` where there is no default,
// perhaps `envDefault:"…"`, and `doc:"…"`. A setting whose field is tagged
// `secret:"true"` may also be given as NAME_FILE, the path of a file that holds
// it. [Table] is the documentation of the settings, made from the same tags.
//
// `want:"…"` limits a value that is set: "url" is an http or https URL, "origin" one
// without a path, "a|b" one of a and b, and ">=1s" what is not less. `example:"…"` is
// what an error shows of a setting without a default.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/caarlos0/env/v11"
)

// S3 is the object storage that both processes use.
type S3 struct {
	Endpoint       string `env:"NOFX_S3_ENDPOINT,required,notEmpty" want:"origin" example:"http://s3:9000" doc:"base URL of the S3 service"`
	PublicEndpoint string `env:"NOFX_S3_PUBLIC_ENDPOINT" want:"origin" example:"https://files.example.com" doc:"base URL of signed URLs, if clients reach the service by another name"`
	Bucket         string `env:"NOFX_S3_BUCKET" envDefault:"nofx" doc:"bucket, private"`
	Region         string `env:"NOFX_S3_REGION" envDefault:"us-east-1" doc:"region"`
	AccessKey      string `env:"NOFX_S3_ACCESS_KEY,required,notEmpty" secret:"true" doc:"access key"`
	SecretKey      string `env:"NOFX_S3_SECRET_KEY,required,notEmpty" secret:"true" doc:"secret key"`
	PathPrefix     string `env:"NOFX_S3_PATH_PREFIX" doc:"path before the bucket, such as /storage/v1/s3"`
}

// Common are the settings of every process.
type Common struct {
	DatabaseURL string `env:"DATABASE_URL,required,notEmpty" secret:"true" example:"postgres://ROLE:PASSWORD@HOST:5432/DATABASE" doc:"database; a gateway logs in as role nofx_gateway, a worker as nofx_worker"`
	Pooled      bool   `env:"NOFX_DATABASE_POOLED" envDefault:"false" doc:"DATABASE_URL is a transaction pooler: no prepared statements"`
	Env         string `env:"NOFX_ENV" envDefault:"production" want:"development|production" doc:"development or production"`
	KEK         string `env:"NOFX_KEK" example:"file:/etc/nofx/kek" doc:"URI of the key that encrypts secrets of tenants, the same on all processes: file:/path, as gateway kek create makes it; in production only its owner may read the file; without it tenants have no secrets"`
	Log         string `env:"NOFX_LOG_LEVEL" envDefault:"info" want:"debug|info|warn|error" doc:"debug, info, warn or error"`
	S3          S3
}

// Names are all our variables besides those of [Common]: of the gateway, of the
// worker, of the CLI and of tests. Processes are often started in one
// environment, so each knows what is meant for the others. A test of each
// process compares its settings with the list.
var Names = []string{
	"NOFX_HTTP_ADDR", "NOFX_METRICS_ADDR", "NOFX_PUBLIC_URL", "NOFX_TRUSTED_PROXIES", "NOFX_DATABASE_MAX_CONNS", "NOFX_DRAIN_DELAY",
	"NOFX_SUPABASE_URL", "NOFX_SUPABASE_JWKS_URL", "NOFX_SUPABASE_JWT_SECRET", "NOFX_SUPABASE_JWT_AUDIENCE", "NOFX_SUPABASE_TENANT_CLAIM", "NOFX_SUPABASE_ROLE_CLAIM",
	"NOFX_OIDC_ISSUER", "NOFX_OIDC_AUDIENCE", "NOFX_CORS_ORIGINS",
	"NOFX_LIMIT_RATE", "NOFX_LIMIT_TENANT_RATE", "NOFX_LIMIT_STREAMS", "NOFX_LIMIT_TENANT_STREAMS", "NOFX_LIMIT_TOTAL_STREAMS",
	"NOFX_WORKER_QUEUES", "NOFX_WORKER_CONCURRENCY", "NOFX_LEASE_TTL", "NOFX_DRAIN_GRACE", "NOFX_INFRASTRUCTURE_BUDGET",
	"NOFX_SANDBOX_MIN_TIER", "NOFX_SANDBOX_MAX_TIER", "NOFX_SANDBOX_READONLY", "NOFX_SANDBOX_MEMORY_MIB", "NOFX_SANDBOX_PROCESSES",
	"NOFX_SANDBOX_CGROUP", "NOFX_SANDBOX_DISK_MIB", "NOFX_SANDBOX_EGRESS_MIB", "NOFX_SANDBOX_FILES",
	"NOFX_WORKSPACE_DIR", "NOFX_STEP_ENV", "NOFX_GIT_ALLOW", "NOFX_EGRESS_ALLOW", "NOFX_DATABASE_LISTEN_URL",
	"NOFX_LLM_PROVIDER", "NOFX_LLM_MODEL", "NOFX_LLM_BASE_URL", "NOFX_LLM_API_KEY", "NOFX_LLM_FALLBACK", "NOFX_LLM_PRICES",
	"NOFX_LLM_MAX_TOKENS", "NOFX_LLM_RECORD",
	"NOFX_FORGE_TOKENS_DIR", "NOFX_GITHUB_TOKEN", "NOFX_GITHUB_MCP_COMMAND", "NOFX_GITHUB_MCP_URL", "NOFX_GITHUB_API",
	"NOFX_BITBUCKET_TOKEN", "NOFX_BITBUCKET_MCP_COMMAND", "NOFX_BITBUCKET_ACCOUNT", "NOFX_BITBUCKET_API", "NOFX_BITBUCKET_REPORTS",
	"NOFX_URL", "NOFX_API_KEY",
	"NOFX_TEST", "NOFX_FAILPOINTS", "NOFX_FAILPOINT_SEED",
}

// Load reads T, a struct with the tags of the package comment, from environ,
// which has the form of os.Environ. unknown are the variables named NOFX_… that
// T does not have: misspelt, or of another process. An error has a line for each
// variable that is wrong, and never shows a value; what else could be read is in cfg.
func Load[T any](environ []string) (cfg T, unknown []string, err error) {
	fields := Settings[T]()
	byName := make(map[string]Setting, len(fields))
	for _, f := range fields {
		byName[f.Name] = f
	}
	vars := env.ToMap(environ)
	var problems problems
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		setting, isFile := strings.CutSuffix(name, "_FILE")
		f, ok := byName[setting]
		switch {
		case isFile && ok && f.Secret:
			if vars[setting] != "" {
				problems.add(f, fmt.Sprintf("both %s and %s are set", setting, name))
				continue
			}
			content, err := os.ReadFile(vars[name])
			if err != nil {
				problems.add(f, fmt.Sprintf("%s: %v", name, err))
				continue
			}
			vars[setting] = strings.TrimRight(string(content), "\r\n")
		case strings.HasPrefix(name, "NOFX_") && byName[name].Name == "" &&
			!slices.Contains(Names, name) && !(isFile && slices.Contains(Names, setting)):
			unknown = append(unknown, name)
		}
	}
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: vars}); err != nil {
		problems.parse(err, fields)
	}
	for _, f := range fields {
		if problem := f.unmet(vars[f.Name]); problem != "" {
			problems.add(f, problem)
		}
	}
	return cfg, unknown, problems.err()
}

// Wrong returns all that keeps a process from starting, a line each, or nil: errs, and
// beside them the unknown variables of [Load], of which one may be meant for what is
// missing.
func Wrong(unknown []string, errs ...error) error {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	for _, name := range unknown {
		line := name + " is not a setting"
		if near := nearest(name); near != "" {
			line += "; did you mean " + near + "?"
		}
		err = errors.Join(err, errors.New(line))
	}
	return err
}

// nearest returns the setting that name is likely to be meant for, or "".
func nearest(name string) (near string) {
	names := slices.Clone(Names)
	for _, s := range Settings[Common]() {
		names = append(names, s.Name)
		if s.Secret {
			names = append(names, s.Name+"_FILE")
		}
	}
	least := 1 + len(name)/6 // slips of the keyboard; more of them are another word
	for _, candidate := range names {
		if slips := levenshtein.ComputeDistance(name, candidate); slips < least {
			near, least = candidate, slips
		}
	}
	return near
}

// problems is what is wrong, at most once for each setting.
type problems struct {
	lines []string
	of    []string // names of settings
}

func (p *problems) add(s Setting, line string) {
	if !slices.Contains(p.of, s.Name) {
		p.lines, p.of = append(p.lines, line), append(p.of, s.Name)
	}
}

func (p *problems) err() error {
	if len(p.lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(p.lines, "\n"))
}

// parse adds err in the names of variables: a value may be a secret, or stand where one
// was meant to be.
func (p *problems) parse(err error, fields []Setting) {
	var all env.AggregateError
	if !errors.As(err, &all) {
		p.lines = append(p.lines, "settings cannot be read")
		return
	}
	named := func(same func(Setting) bool) Setting { return fields[slices.IndexFunc(fields, same)] }
	say := func(s Setting, what string) { p.add(s, s.wrong(what)) }
	for _, e := range all.Errors {
		var parse env.ParseError
		var unset env.VarIsNotSetError
		var empty env.EmptyVarError
		switch {
		case errors.As(e, &parse):
			say(named(func(s Setting) bool { return s.field == parse.Name }), "is not "+kind(parse.Type))
		case errors.As(e, &unset):
			say(named(func(s Setting) bool { return s.Name == unset.Key }), "is not set")
		case errors.As(e, &empty):
			say(named(func(s Setting) bool { return s.Name == empty.Key }), "is empty")
		default:
			p.lines = append(p.lines, "a variable cannot be read")
		}
	}
}

// kind returns what values of a type are called.
func kind(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration"
	case t == reflect.TypeFor[[]netip.Prefix]():
		return "a list of networks"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// wrong returns the message that something is wrong with the setting, with an example.
func (s Setting) wrong(what string) string {
	if example := cmp.Or(s.example, s.Default); example != "" {
		what += "; for example " + example
	}
	return s.Name + " " + what
}

// unmet returns the message that a value does not meet the setting's tag want, or "".
func (s Setting) unmet(value string) string {
	if s.want == "" || value == "" {
		return ""
	}
	if least, ok := strings.CutPrefix(s.want, ">="); ok {
		if !(amount(value) >= amount(least)) { // also NaN
			return s.wrong("is less than " + least)
		}
		return ""
	}
	if s.want != "url" && s.want != "origin" {
		choices := strings.Split(s.want, "|")
		if slices.Contains(choices, value) {
			return ""
		}
		last := len(choices) - 1
		return s.Name + " is not " + strings.Join(choices[:last], ", ") + " or " + choices[last]
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return s.wrong("is not an http or https URL")
	case s.want == "origin" && strings.Trim(u.Path, "/") != "":
		return s.wrong("is a URL with a path, which goes into NOFX_S3_PATH_PREFIX")
	}
	return ""
}

// amount returns a number or a duration, as a number.
func amount(text string) float64 {
	if d, err := time.ParseDuration(text); err == nil {
		return float64(d)
	}
	n, _ := strconv.ParseFloat(text, 64) // which the field's type has taken
	return n
}

// Lookup returns a getenv over environ, which has the form of os.Environ.
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

	field   string
	want    string
	example string
}

// Settings returns the variables of T in the order of its fields.
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
			Required: strings.Contains(options, "required"), Secret: f.Tag.Get("secret") == "true",
			field: f.Name, want: f.Tag.Get("want"), example: f.Tag.Get("example"),
		})
	}
	return all
}

// Table returns the settings of T as rows of a Markdown table: name, default, meaning.
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
