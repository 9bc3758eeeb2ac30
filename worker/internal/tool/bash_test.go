package tool

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/run"
)

func TestBash(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		script, log, outputs string // outputs as JSON
	}{
		"prints":        {"echo out; echo err >&2; pwd | grep -c .", "out\nerr\n1\n", `{"exit_code":0,"outputs":{}}`},
		"outputs":       {`echo "version=1.2=3" >> "$NOFX_OUTPUT"; printf 'a.b-c_D=\r\n\nversion=2' >> $NOFX_OUTPUT`, "", `{"exit_code":0,"outputs":{"a.b-c_D":"","version":"2"}}`},
		"cleaned":       {`printf 'bad=a\000b\377c\n' > $NOFX_OUTPUT`, "", `{"exit_code":0,"outputs":{"bad":"a�b�c"}}`},
		"removed":       {`rm $NOFX_OUTPUT`, "", `{"exit_code":0,"outputs":{}}`},
		"broken pipe":   {"yes | head -n1", "y\n", `{"exit_code":0,"outputs":{}}`},
		"long script":   {"true " + strings.Repeat("x", 250<<10) + "\necho fine", "fine\n", `{"exit_code":0,"outputs":{}}`},
		"scratch":       {`touch "$HOME/h" "$TMPDIR/t"; case $HOME in "$NOFX_WORKSPACE"*) exit 1;; esac`, "", `{"exit_code":0,"outputs":{}}`},
		"folder moved":  {`mkdir x; mv "${NOFX_OUTPUT%/*}" "${NOFX_OUTPUT%/*}-away"; ln -s "$PWD/x" "${NOFX_OUTPUT%/*}"; echo stolen=1 > x/output`, "", `{"exit_code":0,"outputs":{}}`},
		"stdin is none": {"cat; echo end", "end\n", `{"exit_code":0,"outputs":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, log := newCall(t, "bash", run.BashInputs{Script: tt.script})
			r, err := developer(Config{}).Run(t.Context(), c)
			if err != nil || r.ExitCode == nil || *r.ExitCode != 0 {
				t.Fatalf("Run = %+v, %v", r, err)
			}
			outputs, err := json.Marshal(r.Outputs)
			if err != nil || string(outputs) != tt.outputs || log.String() != tt.log {
				t.Errorf("Run: outputs %s, log %q, want %s and %q", outputs, log, tt.outputs, tt.log)
			}
			if r.Usage.MaxRSSBytes == 0 {
				t.Errorf("usage = %+v, want memory in it", r.Usage)
			}
		})
	}
}

func TestBashFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		script string
		class  run.FailureClass
		reason string
		code   int
	}{
		"exit code":        {"exit 3", run.ClassTool, "exit code 3", 3},
		"first failure":    {"false\necho reached", run.ClassTool, "exit code 1", 1},
		"signal":           {"kill -KILL $$", run.ClassTool, "signal 9 (killed)", 137},
		"no key":           {`printf 'a=1\n\nnonsense\n' > $NOFX_OUTPUT`, run.ClassInvalid, "$NOFX_OUTPUT line 3", 0},
		"bad key":          {`printf '1a=1\n' > $NOFX_OUTPUT`, run.ClassInvalid, "$NOFX_OUTPUT line 1", 0},
		"NUL in a key":     {`printf 'a\000=1\n' > $NOFX_OUTPUT`, run.ClassInvalid, "$NOFX_OUTPUT line 1", 0},
		"link for a file":  {`ln -sf /etc/passwd $NOFX_OUTPUT`, run.ClassInvalid, "not a regular file", 0},
		"inner link":       {`echo a=1 > $HOME/f; ln -sf home/f $NOFX_OUTPUT`, run.ClassInvalid, "not a regular file", 0},
		"pipe for a file":  {`rm $NOFX_OUTPUT; mkfifo $NOFX_OUTPUT`, run.ClassInvalid, "not a regular file", 0},
		"too much":         {`printf 'a=%070000d\n' 1 > $NOFX_OUTPUT`, run.ClassInvalid, "more than 65536 bytes", 0},
		"too much as JSON": {`printf 'a=%060000d\n' 1 | tr 0 '\001' > $NOFX_OUTPUT`, run.ClassInvalid, "at most 65536", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, log := newCall(t, "bash", run.BashInputs{Script: tt.script})
			r, err := developer(Config{}).Run(t.Context(), c)
			wantFailure(t, name, err, tt.class, tt.reason)
			if r.ExitCode == nil || *r.ExitCode != tt.code || strings.Contains(log.String(), "reached") {
				t.Errorf("Run = %+v with log %q, want exit code %d", r, log, tt.code)
			}
		})
	}
}

func TestEnvironmentOfAStep(t *testing.T) {
	t.Setenv("WORKER_SECRET", "s3cret")
	c, log := newCall(t, "bash", run.BashInputs{
		Script: "env",
		Env:    map[string]string{"MINE": "1", "CI": "mine", "NOFX_RUN_ID": "forged", "TRACEPARENT": "forged"},
	})
	c.Spec.EnvAllowed = []string{"CI", "PROXY", "NOT_SET", "WORKER_SECRET", "NOFX_STEP_ID"}
	b := developer(Config{StepEnv: map[string]string{
		"PATH": "/opt/go/bin:/usr/bin:/bin", "CI": "true", "PROXY": "http://proxy", "OTHER": "not allowed", "NOFX_STEP_ID": "forged",
	}})
	if _, err := b.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"CI=mine", "HOME=" + filepath.Join(c.Scratch, "home"), "LANG=C.UTF-8", "MINE=1",
		"NOFX_OUTPUT=" + filepath.Join(c.Scratch, "output"), "NOFX_RUN_ID=run_1", "NOFX_STEP_ID=step_2", "NOFX_STEP_NAME=build",
		"NOFX_WORKSPACE=" + c.Workspace, "PATH=/opt/go/bin:/usr/bin:/bin", "PROXY=http://proxy",
		"TMPDIR=" + filepath.Join(c.Scratch, "tmp"), "TRACEPARENT=00-aa-bb-01",
	}
	got := slices.Sorted(strings.SplitSeq(strings.TrimSpace(log.String()), "\n"))
	got = slices.DeleteFunc(got, func(kv string) bool { // bash's own
		return strings.HasPrefix(kv, "_=") || strings.HasPrefix(kv, "PWD=") || strings.HasPrefix(kv, "SHLVL=") || strings.HasPrefix(kv, "OLDPWD")
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestEndlessOutputEnds(t *testing.T) {
	t.Parallel()
	c, log := newCall(t, "bash", run.BashInputs{Script: "yes | head -c 20000000"})
	if _, err := developer(Config{}).Run(t.Context(), c); err != nil || len(log.String()) != 20000000 {
		t.Errorf("Run = %v with %d bytes logged, want all of them", err, len(log.String()))
	}
}

func FuzzParseOutputs(f *testing.F) {
	for _, seed := range []string{"", "a=1\n", "a=1\r\nb=\n\n", "=", "a", "a==\x00\xff", "\n\n\nä=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := parseOutputs(text)
		if err != nil {
			return
		}
		for key, value := range values {
			if s := fmt.Sprint(value); !outputKey.MatchString(key) || run.BadText(s) != "" || strings.Contains(s, "\n") {
				t.Errorf("parseOutputs(%q) gave %q=%q", text, key, value)
			}
		}
	})
}
