package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Who may import what (ARCHITECTURE.md). The rules are about code that ships; of the
// files of tests those of integration alone are looked at, which see the system from
// outside. A pattern is an import path, or one that ends
// in /..., which is that path and all below it.
//
// Ours is nofx.dev/; the tables leave it out.
const ours = "nofx.dev/"

// rule is about the packages that match pkg.
type rule struct {
	pkg  string
	what []string
}

// mayImport says what a package may import beyond the standard library. The first
// row that matches a package is its rule; a package without a row is a fault, so
// that a new one is placed on purpose, and so is a row without a package.
var mayImport = []rule{
	{"shared/fault", nil},
	{"shared/failpoint", nil},
	{"shared/machine", nil},
	{"shared/glob", pure},
	{"shared/run", slices.Concat([]string{"shared/fault", "shared/machine", "shared/review", "shared/glob"}, pure)},
	{"shared/review", slices.Concat([]string{"shared/fault", "shared/machine", "shared/glob", "go.yaml.in/yaml/v3"}, pure)},
	{"shared/job", slices.Concat([]string{"shared/run", "github.com/riverqueue/river", riverTypes}, pure)},
	{"shared/postgres/pgtest", slices.Concat([]string{"shared/postgres", "migrations", "shared/servertest/pgserver"}, pgx, pure)},
	{"shared/postgres", slices.Concat([]string{"shared/fault", "shared/machine", "shared/run", "shared/review", "shared/job", "shared/tree", "shared/seal", "migrations"}, pgx, river, otelAPI, pure)},
	{"shared/blob", slices.Concat([]string{"shared/fault", "shared/failpoint"}, minio, pure)},
	{"shared/tree", slices.Concat([]string{"shared/blob", "shared/fault"}, pure)},
	{"shared/seal", []string{"shared/fault", "github.com/tink-crypto/tink-go/v2/..."}},
	{"shared/jsonpatch", []string{"shared/fault", "github.com/evanphx/json-patch/v5"}},
	{"shared/config", []string{"github.com/caarlos0/env/v11", "github.com/agnivade/levenshtein"}},
	{"shared/process", []string{"shared/config", "shared/failpoint", "shared/telemetry", "github.com/google/uuid", "github.com/prometheus/..."}},
	{"shared/servertest/pgserver", slices.Concat([]string{"shared/servertest/..."}, pgx)},
	{"shared/servertest/s3server", slices.Concat([]string{"shared/servertest/..."}, minio)},
	{"shared/servertest/...", []string{"shared/servertest/..."}},
	{"shared/telemetry", []string{riverTypes, "github.com/prometheus/...", "go.opentelemetry.io/otel/..."}},

	{"gateway/api", []string{"github.com/oapi-codegen/runtime/..."}},
	{"gateway/audit", []string{"gateway/api"}},
	{"gateway/cmd/nofx", []string{"gateway/api", "gateway/audit", "github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/term", "github.com/mattn/go-runewidth"}},
	{"gateway/cmd/gateway", []string{"gateway/...", "shared/...", anyModule}},
	{"gateway/internal/limit", []string{"golang.org/x/time/rate"}},
	{"gateway/internal/identity", slices.Concat([]string{"gateway/api", "gateway/internal/limit", "shared/fault", "shared/postgres", "shared/run", "github.com/go-jose/go-jose/v4"}, pure)},
	{"gateway/internal/...", slices.Concat([]string{"gateway/api", "gateway/internal/...", "shared/..."}, echo, otelAPI, pure)},

	{"worker/cmd/worker", []string{"worker/internal/...", "shared/...", anyModule}},
	{"worker/cmd/nofx-sandbox", []string{"worker/internal/sandbox/confine"}},
	{"worker/internal/sandbox", []string{"worker/internal/sandbox/confine", "shared/fault", "golang.org/x/sys/..."}},
	{"worker/internal/sandbox/confine", []string{"golang.org/x/sys/...", "golang.org/x/net/bpf"}},
	{"worker/internal/sandbox/sandboxtest", []string{"worker/internal/sandbox"}},
	{"worker/internal/egress", []string{"shared/fault", "shared/run"}},
	{"worker/internal/merge", []string{"shared/tree", "shared/fault", "github.com/aymanbagabas/go-udiff/lcs"}},
	{"worker/internal/diff", []string{"shared/jsonpatch", "shared/run", "shared/tree", "shared/fault"}},
	{"worker/internal/snapshot", slices.Concat([]string{"shared/blob", "shared/tree", "shared/run", "shared/fault", "shared/failpoint", "golang.org/x/sys/..."}, otelAPI, pure)},
	{"worker/internal/pause", nil},
	{"worker/internal/batch", []string{"github.com/google/uuid"}},
	{"worker/internal/lease", []string{"worker/internal/pause", "shared/postgres", "shared/telemetry", "shared/fault", "github.com/google/uuid"}},
	{"worker/internal/storage", []string{"worker/internal/pause", "shared/blob"}},
	{"worker/internal/checkpoint", slices.Concat([]string{"worker/internal/merge", "worker/internal/snapshot", "shared/postgres", "shared/blob", "shared/tree", "shared/run", "shared/fault", "shared/telemetry"}, otelAPI, pure)},
	{"worker/internal/workspace", []string{"worker/internal/snapshot", "shared/servertest/filelock", "github.com/google/uuid"}},
	{"worker/internal/step", slices.Concat([]string{
		"worker/internal/batch", "worker/internal/checkpoint", "worker/internal/lease", "worker/internal/merge", "worker/internal/pause", "worker/internal/reviewstep", "worker/internal/sieve",
		"worker/internal/snapshot", "worker/internal/steplog", "worker/internal/storage", "worker/internal/system", "worker/internal/tool", "worker/internal/workspace", "shared/...",
	}, river, otelAPI, pure)},
	{"worker/internal/host", slices.Concat([]string{
		"worker/internal/alert", "worker/internal/checkpoint", "worker/internal/egress", "worker/internal/lease", "worker/internal/llm", "worker/internal/llm/rules", "worker/internal/pause", "worker/internal/retention", "worker/internal/reviewstep", "worker/internal/step",
		"worker/internal/storage", "worker/internal/system", "worker/internal/tool", "worker/internal/workspace", "shared/...",
	}, river)},
	{"worker/internal/host/hosttest", slices.Concat([]string{"worker/internal/host", "worker/internal/sandbox/sandboxtest", "worker/internal/tool", "shared/...", "github.com/prometheus/..."}, river, otelAPI, pure)},
	{"worker/internal/reviewer", slices.Concat([]string{"worker/internal/llm", "shared/fault", "shared/review", "shared/telemetry", "github.com/bluekeyes/go-gitdiff/gitdiff"}, otelAPI, pure)},
	{"worker/internal/llm/openai", []string{"worker/internal/llm", "github.com/openai/openai-go/v3/..."}},
	{"worker/internal/llm/anthropic", []string{"worker/internal/llm", "github.com/anthropics/anthropic-sdk-go/v2/..."}},
	{"worker/internal/codehost", slices.Concat([]string{"worker/internal/reviewer", "shared/fault", "shared/review", "shared/telemetry", "github.com/modelcontextprotocol/go-sdk/mcp"}, otelAPI, pure)},
	{"worker/internal/codehost/codehosttest", []string{"worker/internal/egress", "worker/internal/reviewer", "shared/review", "github.com/modelcontextprotocol/go-sdk/mcp", "github.com/santhosh-tekuri/jsonschema/v6", "github.com/vektah/gqlparser/..."}},
	{"worker/internal/llm/...", slices.Concat([]string{"worker/internal/llm", "worker/internal/edit", "worker/internal/reviewer", "shared/review", "shared/fault", "shared/telemetry", "github.com/santhosh-tekuri/jsonschema/v6"}, otelAPI, pure)},
	{"worker/internal/edit", slices.Concat([]string{"worker/internal/llm", "shared/fault", "shared/run"}, pure)},
	{"worker/internal/...", slices.Concat([]string{"worker/internal/...", "shared/...", "golang.org/x/sys/..."}, river, otelAPI, pure)},

	{"migrations/...", slices.Concat([]string{"migrations/..."}, pgx, river)},
	{"integration/...", []string{"integration/...", "gateway/api", "shared/servertest/...", anyModule}},
}

// anyModule stands for every module that is not ours.
const anyModule = "*"

const riverTypes = "github.com/riverqueue/river/rivertype"

var (
	// pure are small libraries that do no I/O.
	pure = []string{
		"github.com/bmatcuk/doublestar/v4", "github.com/google/uuid", "github.com/gowebpki/jcs", "github.com/go-json-experiment/json/...",
		"github.com/klauspost/compress/...", "golang.org/x/sync/errgroup", "golang.org/x/text/...",
	}
	pgx     = []string{"github.com/jackc/pgx/v5/..."}
	river   = []string{"github.com/riverqueue/river/..."}
	minio   = []string{"github.com/minio/minio-go/v7/..."}
	echo    = []string{"github.com/labstack/echo/v4/..."}
	otelAPI = []string{
		"go.opentelemetry.io/otel", "go.opentelemetry.io/otel/attribute", "go.opentelemetry.io/otel/codes",
		"go.opentelemetry.io/otel/propagation", "go.opentelemetry.io/otel/trace", "go.opentelemetry.io/contrib/instrumentation/...",
	}
	mains = []string{"gateway/cmd/gateway", "worker/cmd/worker", "migrations/cmd/migrate"}
)

// onlyIn says where a package may be imported at all, whatever the row of the
// importer allows.
var onlyIn = []struct {
	what  string
	where []string
}{
	{"github.com/labstack/echo/...", []string{"gateway/internal/...", "gateway/cmd/gateway"}},
	{"github.com/jackc/pgx/...", slices.Concat([]string{"shared/postgres/...", "shared/servertest/pgserver", "migrations/...", "integration/..."}, mains)},
	{"github.com/riverqueue/river/riverdriver/...", slices.Concat([]string{"shared/postgres/...", "migrations/...", "integration/..."}, mains)},
	{"github.com/minio/...", []string{"shared/blob", "shared/servertest/s3server"}},
	{"go.opentelemetry.io/otel/sdk/...", slices.Concat([]string{"shared/telemetry"}, mains)},
	{"go.opentelemetry.io/otel/exporters/...", slices.Concat([]string{"shared/telemetry"}, mains)},
	{"github.com/go-jose/...", []string{"gateway/internal/identity"}},
	{"github.com/modelcontextprotocol/...", []string{"worker/internal/codehost/..."}},
	{"github.com/vektah/gqlparser/...", []string{"worker/internal/codehost/codehosttest"}},
	{"worker/internal/codehost/codehosttest", nil}, // for tests alone
	{"shared/postgres/pgtest", []string{"worker/internal/host/hosttest"}},
	{"shared/servertest/pgserver", testServers},
	{"shared/servertest/s3server", slices.Concat(testServers, []string{"worker/internal/host/hosttest"})},
	{"shared/servertest/child", testServers},
	{"shared/servertest/datadir", testServers},
	{"shared/servertest/filelock", slices.Concat(testServers, []string{"worker/internal/workspace"})},
}

// testServers start servers as children of a test or of the local stack.
var testServers = []string{"shared/servertest/...", "shared/postgres/pgtest", "integration/..."}

// mayNotReach says what a package may not depend on, through whatever others.
var mayNotReach = []rule{
	{"gateway/cmd/nofx", []string{"shared/...", "gateway/internal/...", "github.com/labstack/...", "github.com/jackc/pgx/..."}},
	{"integration/...", []string{"shared/postgres/...", "gateway/internal/...", "worker/..."}},
	{"gateway/...", []string{"worker/..."}},
	{"worker/...", []string{"gateway/..."}},
	{"shared/...", []string{"gateway/...", "worker/..."}},
	{"worker/cmd/...", []string{"worker/internal/host/hosttest"}},
	// A merge is computed, whoever asks for it and wherever it is stored.
	{"worker/internal/merge", []string{"shared/postgres/..."}},
	// A tool reaches what is stored through its Call alone.
	{"worker/internal/tool", []string{"shared/postgres/...", "shared/blob/...", "shared/tree"}},
	// What judges a report has nothing that could change the verdict.
	{"worker/internal/report", []string{"shared/postgres/...", "shared/blob/...", "worker/internal/llm/...", "worker/internal/sandbox", "worker/internal/egress"}},
	// What reviews has neither what is stored, nor a vendor's client, nor a way to run code.
	{"worker/internal/reviewer", []string{"shared/postgres/...", "shared/blob/...", "worker/internal/sandbox", "worker/internal/tool", "worker/internal/codehost", "worker/internal/llm/openai", "worker/internal/llm/anthropic"}},
	// What speaks to a forge has no model's credential, and stores nothing.
	{"worker/internal/codehost/...", []string{"shared/postgres/...", "shared/blob/...", "worker/internal/sandbox", "worker/internal/tool", "worker/internal/llm/openai", "worker/internal/llm/anthropic", "worker/internal/llm/rules"}},
	// What speaks to a model has neither the database nor a way to run code.
	{"worker/internal/llm/...", []string{"shared/postgres/...", "shared/blob/...", "worker/internal/sandbox", "worker/internal/tool"}},
}

// withoutIO are packages that compute and do nothing else: what they are given is all
// that they know.
var withoutIO = []string{
	"shared/fault", "shared/machine", "shared/glob", "shared/run", "shared/review", "shared/job",
	"worker/internal/report", "worker/internal/sieve", "worker/internal/llm/rules",
}

// doesIO are the packages of the standard library that read, write or connect.
var doesIO = []string{"os/...", "net", "net/http/...", "net/rpc/...", "net/smtp", "syscall", "database/sql/...", "log/...", "io/ioutil", "plugin"}

// nameless are names that say nothing about what a package is for.
var nameless = []string{"util", "utils", "common", "helper", "helpers", "type", "types", "misc", "lib", "base"}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string

	TestImports, XTestImports []string
}

// tree are packages by path, what they depend on included.
type tree map[string]pkg

// ours returns the packages of this repository, without the prefix, sorted.
func (t tree) ours() []string {
	var all []string
	for p := range t {
		if short, ok := strings.CutPrefix(p, ours); ok {
			all = append(all, short)
		}
	}
	slices.Sort(all)
	return all
}

// ofModules returns those of imports that are not of the standard library, as the tables
// write them.
func (t tree) ofModules(imports []string) []string {
	var all []string
	for _, imp := range imports {
		// Neither C nor what is vendored into the standard library is a module.
		if domain, _, _ := strings.Cut(imp, "/"); !t[imp].Standard && strings.Contains(domain, ".") {
			all = append(all, strings.TrimPrefix(imp, ours))
		}
	}
	return all
}

// reach returns all that one of our packages depends on, as a way from it to there.
func (t tree) reach(p string) map[string][]string {
	ways := map[string][]string{}
	var walk func(string, []string)
	walk = func(at string, way []string) {
		for _, imp := range t[at].Imports {
			short := strings.TrimPrefix(imp, ours)
			if _, seen := ways[short]; seen || t[imp].Standard {
				continue
			}
			ways[short] = append(slices.Clone(way), short)
			walk(imp, ways[short])
		}
	}
	walk(ours+p, []string{p})
	return ways
}

func match(pattern, p string) bool {
	if under, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == under || strings.HasPrefix(p, under+"/")
	}
	return pattern == p || pattern == anyModule && strings.Contains(strings.Split(p, "/")[0], ".")
}

func matchAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return match(pattern, p) })
}

// violations returns the faults of a tree, one sentence each.
func violations(t tree) []string {
	var faults []string
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	packages := t.ours()
	used := map[string]bool{}
	for _, p := range packages {
		if name := path.Base(p); slices.Contains(nameless, name) {
			add("%s: the name %s says nothing about what it is for", p, name)
		}
		row := slices.IndexFunc(mayImport, func(r rule) bool { return match(r.pkg, p) })
		if row < 0 {
			add("%s: no row of mayImport is about it", p)
			continue
		}
		used[mayImport[row].pkg] = true
		for _, imp := range t.ofModules(t[ours+p].Imports) {
			if !matchAny(mayImport[row].what, imp) {
				add("%s imports %s: the row of %s allows %v", p, imp, mayImport[row].pkg, mayImport[row].what)
			}
			for _, only := range onlyIn {
				if match(only.what, imp) && !matchAny(only.where, p) {
					add("%s imports %s: %s is only for %v", p, imp, only.what, only.where)
				}
			}
		}
		if match("integration/...", p) {
			for _, imp := range t.ofModules(slices.Concat(t[ours+p].TestImports, t[ours+p].XTestImports)) {
				if !matchAny(mayImport[row].what, imp) {
					add("a test of %s imports %s: the row of %s allows %v", p, imp, mayImport[row].pkg, mayImport[row].what)
				}
			}
		}
		for _, imp := range t[ours+p].Imports {
			if slices.Contains(withoutIO, p) && matchAny(doesIO, imp) {
				add("%s imports %s: it does no input and output", p, imp)
			}
		}
	}
	for _, p := range withoutIO {
		if !slices.Contains(packages, p) {
			add("%s: there is no such package, so its name in withoutIO is stale", p)
		}
	}
	for _, not := range mayNotReach {
		if !slices.ContainsFunc(packages, func(p string) bool { return match(not.pkg, p) }) {
			add("%s: there is no such package, so its row of mayNotReach is stale", not.pkg)
		}
	}
	for _, row := range mayImport {
		if !used[row.pkg] {
			add("%s: there is no such package, so its row of mayImport is stale", row.pkg)
		}
	}
	reached := map[string]map[string]bool{"gateway": {}, "worker": {}} // by the processes
	for _, p := range packages {
		ways := t.reach(p)
		for _, not := range mayNotReach {
			if !match(not.pkg, p) {
				continue
			}
			for _, to := range slices.Sorted(maps.Keys(ways)) {
				if matchAny(not.what, to) {
					add("%s may not depend on %s, and does: %s", p, to, strings.Join(ways[to], " → "))
				}
			}
		}
		if by, ok := reached[strings.Split(p, "/")[0]]; ok {
			for to := range ways {
				by[to] = true
			}
		}
	}
	for _, p := range packages {
		if !match("shared/...", p) || match("shared/servertest/...", p) || strings.HasSuffix(p, "test") {
			continue
		}
		for _, process := range []string{"gateway", "worker"} {
			if !reached[process][p] {
				add("%s is not needed by the %s: what one process uses alone lives in its internal/", p, process)
			}
		}
	}
	return faults
}

// load asks the go command for all packages of the workspace and what they need.
func load(t *testing.T) tree {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports,TestImports,XTestImports", "work")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps work: %v\n%s", err, &stderr)
	}
	all := tree{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
}

func TestImportsFollowTheArchitecture(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, module := range []string{"gateway/...", "worker/...", "shared/...", "migrations/...", "integration/..."} {
		if !slices.ContainsFunc(all.ours(), func(p string) bool { return match(module, p) }) {
			t.Errorf("go list sees no package of %s", module)
		}
	}
	for _, fault := range violations(all) {
		t.Error(fault)
	}
}

// TestTheCheckerSeesViolations breaks the real tree, one import at a time.
func TestTheCheckerSeesViolations(t *testing.T) {
	t.Parallel()
	all := load(t)
	before := violations(all)
	for _, tt := range []struct{ pkg, imports, want string }{
		{"shared/fault", "github.com/google/uuid", "shared/fault imports github.com/google/uuid: the row of shared/fault allows []"},
		{"shared/fault", ours + "gateway/api", "shared/fault may not depend on gateway/api, and does: shared/fault → gateway/api"},
		{"shared/run", ours + "shared/postgres", "shared/run imports shared/postgres: the row of shared/run allows"},
		{"shared/run", "github.com/jackc/pgx/v5", "github.com/jackc/pgx/... is only for"},
		{"gateway/cmd/nofx", ours + "shared/run", "gateway/cmd/nofx may not depend on shared/run"},
		{"gateway/api", ours + "shared/fault", "gateway/cmd/nofx may not depend on shared/fault, and does: gateway/cmd/nofx → gateway/api → shared/fault"},
		{"gateway/internal/httpapi", "go.opentelemetry.io/otel/sdk/trace", "go.opentelemetry.io/otel/sdk/... is only for"},
		{"gateway/internal/httpapi", ours + "shared/postgres/pgtest", "shared/postgres/pgtest is only for [worker/internal/host/hosttest]"},
		{"gateway/internal/identity", ours + "gateway/internal/httpapi", "gateway/internal/identity imports gateway/internal/httpapi: the row of gateway/internal/identity allows"},
		{"gateway/internal/identity", "github.com/labstack/echo/v4", "gateway/internal/identity imports github.com/labstack/echo/v4: the row"},
		{"gateway/internal/limit", ours + "gateway/internal/httpapi", "gateway/internal/limit imports gateway/internal/httpapi: the row of gateway/internal/limit allows"},
		{"worker/internal/tool", "github.com/labstack/echo/v4", "github.com/labstack/echo/... is only for"},
		{"worker/internal/tool", ours + "gateway/api", "worker/internal/tool may not depend on gateway/api"},
		{"worker/internal/merge", ours + "shared/blob", "worker/internal/merge imports shared/blob: the row of worker/internal/merge allows"},
		{"worker/internal/snapshot", ours + "shared/postgres", "worker/internal/snapshot imports shared/postgres: the row of worker/internal/snapshot allows"},
		{"worker/internal/step", "github.com/minio/minio-go/v7/pkg/credentials", "github.com/minio/... is only for"},
		{"worker/internal/edit", ours + "shared/postgres", "worker/internal/llm/rules may not depend on shared/postgres, and does: worker/internal/llm/rules → worker/internal/edit → shared/postgres"},
		{"worker/internal/step", ours + "shared/servertest/pgserver", "shared/servertest/pgserver is only for"},
		{"migrations", ours + "shared/servertest/pgserver", "migrations imports shared/servertest/pgserver"},
		{"shared/blob", ours + "shared/servertest/s3server", "shared/servertest/s3server is only for"},
		{"shared/servertest/pgserver", ours + "shared/postgres", "shared/servertest/pgserver imports shared/postgres"},
		{"shared/servertest/child", "github.com/jackc/pgx/v5", "shared/servertest/child imports github.com/jackc/pgx/v5"},
		{"worker/internal/step", ours + "shared/servertest/filelock", "shared/servertest/filelock is only for"},
		{"integration/harness", ours + "shared/postgres", "integration/harness may not depend on shared/postgres"},
		{"integration/harness", ours + "worker/internal/step", "integration/harness may not depend on worker/internal/step"},
		{"shared/run", "os", "shared/run imports os: it does no input and output"},
		{"shared/machine", "database/sql", "shared/machine imports database/sql: it does no input and output"},
		{"shared/fault", "net/http", "shared/fault imports net/http: it does no input and output"},
		{"shared/job", "syscall", "shared/job imports syscall: it does no input and output"},
		{"worker/internal/report", "os/exec", "worker/internal/report imports os/exec: it does no input and output"},
		{"worker/internal/sieve", "log/slog", "worker/internal/sieve imports log/slog: it does no input and output"},
		{"worker/internal/llm/rules", "net", "worker/internal/llm/rules imports net: it does no input and output"},
		{"worker/internal/tool", ours + "shared/postgres", "worker/internal/tool may not depend on shared/postgres"},
		{"worker/internal/edit", ours + "shared/blob", "worker/internal/tool may not depend on shared/blob, and does: worker/internal/tool → worker/internal/edit → shared/blob"},
		{"worker/internal/codehost", ours + "worker/internal/llm/openai", "worker/internal/codehost may not depend on worker/internal/llm/openai"},
		{"worker/internal/reviewer", ours + "worker/internal/codehost", "worker/internal/reviewer may not depend on worker/internal/codehost"},
		{"worker/internal/step", "github.com/modelcontextprotocol/go-sdk/mcp", "github.com/modelcontextprotocol/... is only for"},
		{"worker/internal/report", ours + "worker/internal/llm/rules", "worker/internal/report may not depend on worker/internal/llm/rules"},
		{"migrations", ours + "shared/fault", "migrations imports shared/fault"},
		{"shared/alone", "github.com/google/uuid", "shared/alone: no row of mayImport is about it"},
		{"shared/alone", "fmt", "shared/alone is not needed by the gateway"},
		{"shared/alone", "fmt", "shared/alone is not needed by the worker"},
		{"worker/internal/helpers", "fmt", "worker/internal/helpers: the name helpers says nothing"},
		{"gateway/cmd/helpful", "fmt", "gateway/cmd/helpful: no row of mayImport is about it"},
	} {
		broken := maps.Clone(all)
		p := broken[ours+tt.pkg]
		p.ImportPath = ours + tt.pkg
		p.Imports = append(slices.Clone(p.Imports), tt.imports)
		broken[p.ImportPath] = p
		var found []string
		for _, fault := range violations(broken) {
			if !slices.Contains(before, fault) {
				found = append(found, fault)
			}
		}
		if !slices.ContainsFunc(found, func(fault string) bool { return strings.Contains(fault, tt.want) }) {
			t.Errorf("%s imports %s: found %q, want one with %q", tt.pkg, tt.imports, found, tt.want)
		}
	}

	holds := func(broken tree, want string) {
		t.Helper()
		if !slices.ContainsFunc(violations(broken), func(fault string) bool { return strings.HasPrefix(fault, want) }) {
			t.Errorf("violations have none that begins with %q", want)
		}
	}
	gone := maps.Clone(all)
	for _, p := range []string{"shared/tree", "worker/internal/sieve", "worker/internal/tool"} {
		delete(gone, ours+p)
	}
	holds(gone, "shared/tree: there is no such package, so its row of mayImport is stale")
	holds(gone, "worker/internal/sieve: there is no such package, so its name in withoutIO is stale")
	holds(gone, "worker/internal/tool: there is no such package, so its row of mayNotReach is stale")

	inside := maps.Clone(all)
	p := inside[ours+"integration"]
	p.XTestImports = append(slices.Clone(p.XTestImports), ours+"shared/postgres")
	inside[ours+"integration"] = p
	holds(inside, "a test of integration imports shared/postgres")
}

// ownClient is code that reaches out by itself; a Unix socket does not lead out.
var ownClient = regexp.MustCompile(`\bhttp\.(Client|Transport)\{|\bhttp\.(Default(Client|Transport)|Get|Head|Post|PostForm)\b|\bnet\.(Dialer\{|Dial(TCP|UDP|IP|Timeout)?\b)`)

// text is a text in a line of Go: what names a client there is no code.
var text = regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"`)

// TestS27_OneConstructor holds the worker to the one place that makes clients.
func TestS27_OneConstructor(t *testing.T) {
	t.Parallel()
	made := 0
	err := fs.WalkDir(os.DirFS("../worker"), ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := os.ReadFile("../worker/" + file)
		if err != nil {
			return err
		}
		found := ownClient.FindAllString(text.ReplaceAllString(string(source), `""`), -1)
		if path.Dir(file) == "internal/egress" {
			made += len(found)
		} else if len(found) > 0 {
			t.Errorf("worker/%s has %q: clients are made by worker/internal/egress alone", file, found)
		}
		return nil
	})
	if err != nil || made == 0 {
		t.Errorf("walk ../worker = %v with %d clients made by egress, want some: nothing is looked at", err, made)
	}
}
