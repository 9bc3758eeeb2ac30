package workflow_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
)

// runner runs the steps of a job as GitHub's does: by bash, with the environment that the
// workflow gives them, and the values that the expressions in it have.
type runner struct {
	t      *testing.T
	w      *world
	job    *actionlint.Job
	env    *actionlint.Env   // of the workflow
	values map[string]string // of expressions
	polls  string
	folder string
	masked map[string]bool // by a step, in logs from then on
}

// result is what a step left.
type result struct {
	code    int
	log     string // without commands that mask
	summary string
	outputs string
}

// newRunner returns a runner of a job for a pull request, with Supabase's secrets.
func newRunner(t *testing.T, w *world, job string) *runner {
	t.Helper()
	flow := parsed(t, workflow(t))
	return &runner{t: t, w: w, job: flow.Jobs[job], env: flow.Env, polls: "5", folder: t.TempDir(), masked: map[string]bool{}, values: map[string]string{
		"vars.NOFX_URL":                                 w.server.URL + "/",
		"vars.NOFX_OIDC_AUDIENCE || 'nofx'":             "nofx",
		"secrets.SUPABASE_URL":                          w.server.URL + "/supabase",
		"secrets.SUPABASE_ANON_KEY":                     anonKey,
		"secrets.SUPABASE_CI_EMAIL":                     ciEmail,
		"secrets.SUPABASE_CI_PASSWORD":                  ciPassword,
		"secrets.VERCEL_DEPLOY_HOOK_URL":                w.server.URL + "/hook/" + hookSecret,
		"github.repository":                             "acme/shop",
		"github.run_id":                                 "77",
		"github.run_attempt":                            "2",
		"github.event.pull_request.number || inputs.pr": "7",
		"github.event.pull_request.head.sha":            headSHA,
		"inputs.dry_run || false":                       "false",
		"steps.request.outputs.id":                      "",
	}}
}

// byHand makes it a run that was started by hand.
func (r *runner) byHand(pr, dryRun string) {
	r.values["github.event.pull_request.number || inputs.pr"] = pr
	r.values["github.event.pull_request.head.sha"] = ""
	r.values["inputs.dry_run || false"] = dryRun
}

var expression = regexp.MustCompile(`\$\{\{ (.*?) \}\}`)

// step runs the step of that name. It fails the test when the log or the summary has a
// secret, and when a token is not masked.
func (r *runner) step(name string) result {
	r.t.Helper()
	at := slices.IndexFunc(r.job.Steps, func(s *actionlint.Step) bool { return s.Name.Value == name })
	if at < 0 {
		r.t.Fatalf("there is no step %q", name)
	}
	step := r.job.Steps[at]
	env := map[string]string{"NOFX_POLLS": r.polls, "NOFX_POLL_SECONDS": "0", "RUNNER_TEMP": r.folder,
		"GITHUB_OUTPUT": filepath.Join(r.folder, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(r.folder, "summary")}
	if p := r.job.Permissions; p != nil && p.Scopes["id-token"] != nil && p.Scopes["id-token"].Value.Value == "write" {
		env["ACTIONS_ID_TOKEN_REQUEST_URL"], env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = r.w.server.URL+"/oidc/token?api-version=2.0", requestToken
	}
	for _, vars := range []*actionlint.Env{r.env, r.job.Env, step.Env} {
		if vars == nil {
			continue
		}
		for _, v := range vars.Vars {
			env[v.Name.Value] = expression.ReplaceAllStringFunc(v.Value.Value, func(e string) string {
				value, ok := r.values[expression.FindStringSubmatch(e)[1]]
				if !ok {
					r.t.Errorf("step %q: the test has no value for %s", name, e)
				}
				return value
			})
		}
	}
	for _, file := range []string{env["GITHUB_OUTPUT"], env["GITHUB_STEP_SUMMARY"]} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	got := result{}
	got.code, got.log = r.w.bash(step.Exec.(*actionlint.ExecRun).Run.Value, r.folder, env)
	got.summary, got.outputs = content(r.t, env["GITHUB_STEP_SUMMARY"]), content(r.t, env["GITHUB_OUTPUT"])
	for line := range strings.Lines(got.outputs) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && step.ID != nil {
			r.values["steps."+step.ID.Value+".outputs."+key] = value
		}
	}
	var log strings.Builder
	for line := range strings.Lines(got.log) {
		if secret, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "::add-mask::"); ok {
			r.masked[secret] = true
			continue
		}
		log.WriteString(line)
	}
	got.log = log.String()
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for _, token := range r.w.issued {
		if !r.masked[token] {
			r.t.Errorf("step %q does not mask the token %s", name, token)
		}
	}
	r.w.noSecret(name, got.log+got.summary+got.outputs)
	return got
}

// noSecret fails the test when a text has a secret. The caller holds the lock.
func (w *world) noSecret(what, text string) {
	w.t.Helper()
	for _, secret := range slices.Concat(w.issued, []string{anonKey, ciEmail, ciPassword, requestToken, apiKey, signature, hookSecret, "refresh-token"}) {
		if strings.Contains(text, secret) {
			w.t.Errorf("%s shows the secret %q:\n%s", what, secret, text)
		}
	}
}

// bash runs a script as GitHub does, and returns its exit code and what it printed.
func (w *world) bash(script, folder string, env map[string]string) (int, string) {
	w.t.Helper()
	file := filepath.Join(folder, "script.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", file)
	cmd.Dir = folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "TMPDIR=" + folder, "CURL_CA_BUNDLE=" + w.ca}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, name+"="+env[name])
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("bash = %v; the tests need bash, curl and jq", err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func content(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
