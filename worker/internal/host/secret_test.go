package host_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/host"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
	"nofx.dev/worker/internal/tool"
)

// newKEK makes the key of an installation.
func newKEK(t *testing.T) *seal.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	k, err := seal.New("file:"+path, true)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// set sets a secret of the tenant.
func (b *bundle) set(t *testing.T, keys *seal.Key, name, value string) {
	t.Helper()
	_, err := b.DB.SetSecret(b.Ctx, b.TenantID, name, nil, func(next postgres.SealedSecret) ([]byte, error) {
		return keys.Seal([]byte(value), next.Bound()...)
	})
	if err != nil {
		t.Fatalf("SetSecret(%s) = %v", name, err)
	}
}

// createWith creates a run of steps under a policy.
func (b *bundle) createWith(t *testing.T, policy run.Policy, steps ...run.PlanStep) run.Run {
	t.Helper()
	p, err := run.Plan{Goal: "keep it secret", Steps: steps, Policy: &policy}.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v", err)
	}
	r, _, err := b.DB.CreateRun(b.Ctx, b.TenantID, postgres.NewRun{Project: "default", Plan: p, CreatedBy: "tester"})
	if err != nil {
		t.Fatalf("CreateRun() = %v", err)
	}
	return r
}

func script(name, text string, secrets []string, needs ...string) run.PlanStep {
	inputs, _ := json.Marshal(run.BashInputs{Script: text, Secrets: secrets})
	return run.PlanStep{Name: name, Tool: run.ToolBash, Inputs: inputs, DependsOn: append([]string{}, needs...), TimeoutS: new(60)}
}

// formats is shell code that prints $CANARY in 55 formats, each on a line of its own: eleven
// encodings, in five surroundings.
const formats = `
	hexed() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n'; }
	encoded() {
		printf '%s\n' "$CANARY"
		for before in '' x xy; do printf %s "$before$CANARY" | base64 -w0; echo; done
		for before in '' x xy; do printf %s "$before$CANARY" | base64 -w0 | tr +/ -_; echo; done
		hexed "$CANARY"; echo
		hexed "$CANARY" | tr a-f A-F; echo
		escaped
		printf '%s\n' "$CANARY" | sed 's/\\/\\\\/g; s/"/\\"/g'
	}
	escaped() { # as encodeURIComponent does
		local text='' i c
		for ((i = 0; i < ${#CANARY}; i++)); do
			c=${CANARY:i:1}
			case $c in [a-zA-Z0-9._~-]) text+=$c ;; *) text+=$(printf '%%%02X' "'$c") ;; esac
		done
		printf '%s\n' "$text"
	}
	formats() {
		encoded | while IFS= read -r text; do
			printf '%s\n' "$text"
			printf '{"key":"%s","n":1}\n' "$text"
			printf "<a v='%s'/>\n" "$text"
			printf 'Authorization: Bearer %s\r\n' "$text"
			printf '\033[31m%s\033[0m\n' "$text"
		done
	}
`

// encodings returns a value in the encodings of formats, without the ends that depend on what
// is around it.
func encodings(v string) map[string]string {
	quoted, _ := json.Marshal(v)
	all := map[string]string{
		"plain": v, "hex": hex.EncodeToString([]byte(v)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(v))),
		"URL": strings.ReplaceAll(url.QueryEscape(v), "+", "%20"), "JSON": strings.Trim(string(quoted), `"`),
	}
	for n, before := range []string{"", "x", "xy"} {
		for name, e := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := e.EncodeToString([]byte(before + v))
			all[fmt.Sprint(name, n)] = text[4 : len(text)-4]
		}
	}
	return all
}

// leaksIn returns the encodings of which 12 characters in a row are in a text.
func leaksIn(text string, of map[string]string) map[string]bool {
	const piece = 12
	seen := map[string]bool{}
	for i := 0; i+piece <= len(text); i++ {
		seen[text[i:i+piece]] = true
	}
	leaks := map[string]bool{}
	for name, e := range of {
		for i := 0; i+piece <= len(e); i++ {
			leaks[name] = leaks[name] || seen[e[i:i+piece]]
		}
		if !leaks[name] {
			delete(leaks, name)
		}
	}
	return leaks
}

// lockedBuffer takes the log of several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// S23: a secret is masked in whatever form and at whatever exit a run shows it, by any of its
// steps and any worker. The same steps with the value in a variable that nobody masks show
// that the search would find it.
func TestS23_SecretAtEveryExit(t *testing.T) {
	// Not parallel: the provider of spans is the process's.
	recorder, before := tracetest.NewSpanRecorder(), otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	t.Cleanup(func() { otel.SetTracerProvider(before) })
	for name, masked := range map[string]bool{"with the redactor": true, "without": false} {
		b, keys, logs := setup(t), newKEK(t), &lockedBuffer{}
		id := strings.ReplaceAll(uuid.NewString(), "-", "")
		canary := "c4n " + id[:14] + `/+="\` + id[14:]
		policy, asked := run.Policy{EnvAllowed: []string{"CANARY"}}, []string(nil)
		env := map[string]string{"CANARY": canary}
		if masked {
			b.set(t, keys, "CANARY", canary)
			policy, asked, env = run.Policy{Secrets: []string{"CANARY"}}, []string{"CANARY"}, nil
		}
		worker := func(c *host.Config) {
			c.Keys, c.Log = keys, telemetry.NewLogger(logs, slog.LevelDebug, nil)
			c.Tools = tool.New(tool.Config{Sandbox: sandboxtest.Bare(), StepEnv: env})
		}
		b.Worker(t, worker)
		b.Worker(t, worker)
		gateInputs, _ := json.Marshal(run.GateInputs{Secrets: asked, Command: formats + `formats; { printf '<testsuite><testcase name="t"><failure message="m">'
			formats | sed 's/&/\&amp;/g; s/</\&lt;/g; s/\x1b//g'; printf '</failure></testcase></testsuite>'; } > r.xml; exit 1`, Report: &run.GateReport{Format: "junit", Path: "r.xml"}})
		steps := []run.PlanStep{
			script("log", formats+`formats; printf %065530d 7; formats`, asked),
			script("outputs", formats+`n=0; encoded > given; formats | while IFS= read -r line; do echo "v$((n++))=$line" >> $NOFX_OUTPUT; done`, asked),
			script("passed-on", `cat given; n=0; while IFS= read -r line; do echo "v$((n++))=$line" >> $NOFX_OUTPUT; done < given`, nil, "outputs"),
			script("reason", formats+`encoded > names; mapfile -t names < names; "./${names[*]}"`, asked),
			{Name: "gate", Tool: "gate:unit", Inputs: gateInputs, DependsOn: []string{}, TimeoutS: new(60)},
		}
		var ids []uuid.UUID
		for _, tt := range []struct {
			state run.State
			steps []run.PlanStep
		}{{run.Succeeded, steps[:3]}, {run.Failed, steps[3:4]}, {run.Failed, steps[4:5]}} {
			r := b.createWith(t, policy, tt.steps...)
			b.Until(t, r.ID, tt.state)
			ids = append(ids, r.ID)
		}
		exits := map[string]*strings.Builder{}
		add := func(exit, text string) {
			if exits[exit] == nil {
				exits[exit] = &strings.Builder{}
			}
			exits[exit].WriteString(text + "\n")
		}
		add("process log", logs.String())
		if !masked {
			// Spans of steps have numbers, ids, and words of this code, and nothing that a
			// command printed. So the search in them is shown by a span of the test's own.
			_, span := otel.Tracer("control").Start(b.Ctx, "control")
			span.SetAttributes(attribute.String("control", canary))
			span.End()
		}
		for _, span := range recorder.Ended() {
			add("span", fmt.Sprint(span.Name(), span.Status(), span.Attributes(), span.Events()))
		}
		tables, err := b.Admin.Query(b.Ctx, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('nofx', 'river')`)
		if err != nil {
			t.Fatal(err)
		}
		names, err := pgx.CollectRows(tables, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range names {
			rows, err := b.Admin.Query(b.Ctx, "SELECT to_jsonb(t)::text FROM "+table+" t")
			if err != nil {
				t.Fatal(err)
			}
			texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			add(table, strings.Join(texts, "\n"))
		}
		if err := b.Blobs.List(b.Ctx, blob.TenantPrefix(b.TenantID), func(list []blob.Listed) error {
			for _, object := range list {
				kind := strings.Split(object.Key, "/")[2]
				if kind == "pack" { // files of workspaces, which are the user's
					continue
				}
				r, err := b.Blobs.Open(b.Ctx, object.Key, 0, -1)
				if err != nil {
					return err
				}
				content, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				add("object "+kind, string(content))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		all, found := encodings(canary), map[string]map[string]bool{}
		for exit, text := range exits {
			leaks := leaksIn(text.String(), all)
			if masked && len(leaks) > 0 {
				t.Errorf("%s: %s shows the secret in the encodings %v", name, exit, leaks)
			}
			found[exit] = leaks
		}
		for exit, want := range map[string]int{
			"nofx.step": 10, "nofx.gate": 5, "nofx.event": 1, "nofx.run": 1, "nofx.run_search": 1, "nofx.checkpoint": 1,
			"object blob": 5, "object log": len(all), "process log": 1, "span": 1,
		} {
			if leaks := found[exit]; !masked && len(leaks) < want {
				t.Errorf("%s: the search finds %d encodings in %s, %v, want at least %d of %d", name, len(leaks), exit, leaks, want, len(all))
			}
		}
		t.Logf("%s: searched %d exits of %d runs", name, len(exits), len(ids))
	}
}

// Once a secret was deleted, the steps of runs whose plan names it fail by policy and say which,
// also those that do not ask for it: what it was could not be masked any more.
func TestSecretIsGone(t *testing.T) {
	t.Parallel()
	b, keys := setup(t), newKEK(t)
	b.set(t, keys, "TOKEN", "canary-value")
	b.set(t, keys, "OTHER", "canary-other")
	policy := run.Policy{Secrets: []string{"TOKEN"}}
	var runs []run.Run
	for _, asked := range [][]string{{"TOKEN"}, nil} {
		runs = append(runs, b.createWith(t, policy, script("a", "true", asked)))
	}
	if err := b.DB.DeleteSecret(b.Ctx, b.TenantID, "TOKEN"); err != nil {
		t.Fatal(err)
	}
	b.Worker(t, func(c *host.Config) { c.Keys = keys })
	for _, r := range runs {
		d := b.Until(t, r.ID, run.Failed)
		if s := d.Steps[0]; s.FailureClass != run.ClassPolicy || !strings.Contains(s.Reason, "TOKEN") {
			t.Errorf("step = %+v, want it failed by policy, naming TOKEN", s)
		}
	}
	b.Until(t, b.createWith(t, run.Policy{Secrets: []string{"OTHER"}}, script("a", "true", nil)).ID, run.Succeeded)
}

// S23: a value that a run got stays masked in it once the secret is set again, and steps get
// the new one.
func TestS23_SecretSetAgain(t *testing.T) {
	t.Parallel()
	b, keys := setup(t), newKEK(t)
	b.set(t, keys, "TOKEN", "canary-first")
	inputs, _ := json.Marshal(map[string]string{"message": "go on?"})
	r := b.createWith(t, run.Policy{Secrets: []string{"TOKEN"}},
		script("old", `echo "$TOKEN" > given`, []string{"TOKEN"}),
		run.PlanStep{Name: "ask", Tool: run.ManualFamily + "ok", Inputs: inputs, DependsOn: []string{"old"}},
		script("new", `cat given; test "$(cat given)" != "$TOKEN"; echo "$TOKEN"; echo "${TOKEN%-*}"`, []string{"TOKEN"}, "ask"))
	b.Worker(t, func(c *host.Config) { c.Keys = keys })
	d := b.Until(t, r.ID, run.Waiting)
	b.set(t, keys, "TOKEN", "canary-second")
	b.set(t, keys, "TOKEN", "canary-third")
	if _, err := b.DB.DecideGate(b.Ctx, b.TenantID, d.Gates[0].ID, postgres.Decision{Event: "approve"}); err != nil {
		t.Fatal(err)
	}
	d = b.Until(t, r.ID, run.Succeeded)
	if got, want := b.Log(t, d.Steps[2].ID), "[redacted]\n[redacted]\ncanary\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}

// S23: work of the system about a run masks the secrets of its plan, too.
func TestS23_SecretInSystemWork(t *testing.T) {
	t.Parallel()
	b, keys := setup(t), newKEK(t)
	b.set(t, keys, "TOKEN", "canary-value")
	b.Worker(t, func(c *host.Config) { c.Keys, c.Queues = keys, []string{"step", "maintenance"} })
	r := b.createWith(t, run.Policy{Secrets: []string{"TOKEN"}}, script("first", `echo "$TOKEN" > given`, []string{"TOKEN"}), script("second", "touch bad", nil, "first"))
	d := b.Until(t, r.ID, run.Succeeded)
	list, err := b.DB.Candidates(b.Ctx, b.TenantID, nil, *d.Run.HeadCheckpointID)
	if err != nil {
		t.Fatal(err)
	}
	p, err := run.SystemPlan(run.ToolBisect, "bisect", run.BisectInputs{RunID: run.RunID.Format(r.ID), Good: run.CheckpointID.Format(list[0].ID),
		Bad: run.CheckpointID.Format(*d.Run.HeadCheckpointID), Command: "cat given; test ! -e bad", TimeoutS: 60, Candidates: len(list)})
	if err != nil {
		t.Fatal(err)
	}
	work, err := b.DB.StartWork(b.Ctx, b.TenantID, postgres.Work{Key: "bisect", Project: "default", Plan: p, SubjectRunID: &r.ID, CreatedBy: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	w := b.Until(t, work.ID, run.Succeeded)
	if log := b.Log(t, w.Steps[0].ID); strings.Contains(log, "canary") || !strings.Contains(log, "[redacted]") {
		t.Errorf("log of the bisection = %q, want the secret masked", log)
	}
}

// A worker whose key is missing or wrong runs no step of a plan with secrets, since it could
// mask nothing; one that has the key does.
func TestSecretsNeedTheKey(t *testing.T) {
	t.Parallel()
	b, keys := setup(t), newKEK(t)
	b.set(t, keys, "TOKEN", "canary-value")
	r := b.createWith(t, run.Policy{Secrets: []string{"TOKEN"}}, script("prints", `echo "is ${TOKEN:-not there}"; test "${#TOKEN}" = 12`, []string{"TOKEN"}), script("has-none", `test -z "${TOKEN+x}"; echo "run"`, nil, "prints"))
	_, stopNone := b.Worker(t, func(c *host.Config) { c.ID = "none" })
	_, stopWrong := b.Worker(t, func(c *host.Config) { c.ID, c.Keys = "wrong", newKEK(t) })
	b.Wait(t, "both tried", "SELECT count(DISTINCT owner) = 2 FROM nofx.attempt WHERE ended_at IS NOT NULL")
	stopNone()
	stopWrong()
	b.Worker(t, func(c *host.Config) { c.Keys = keys })
	d := b.Until(t, r.ID, run.Succeeded)
	if got, want := b.Log(t, d.Steps[0].ID), "is [redacted]\n"; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	if got, want := b.Log(t, d.Steps[1].ID), "run\n"; got != want {
		t.Errorf("log of the step that asks for none = %q, want %q", got, want)
	}
}
