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
	"nofx.dev/worker/internal/sieve"
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
		"block":         {`{ echo 'notes<<END'; echo l1; echo l2; echo END; } >> "$NOFX_OUTPUT"`, "", `{"exit_code":0,"outputs":{"notes":"l1\nl2"}}`},
		"Windows' ends": {"echo a\r\nif true; then\r\n echo b\r\nfi\r\n", "a\nb\n", `{"exit_code":0,"outputs":{}}`},
		"background":    {"sleep 300 & echo done", "done\n", `{"exit_code":0,"outputs":{}}`},
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
		"no such command":  {"echo one; no-such-tool --now", run.ClassTool, "exit code 127: no-such-tool was not found", 127},
		"no such file":     {"./no/such/tool", run.ClassTool, "exit code 127: ./no/such/tool was not found", 127},
		"not executable":   {"printf x > tool; ./tool", run.ClassTool, "exit code 126: ./tool could not be executed", 126},
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

func TestOutputBlocks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text    string
		want    map[string]any
		problem string
	}{
		"lines":                  {"notes<<END\nl1\nl2\nEND\n", map[string]any{"notes": "l1\nl2"}, ""},
		"no last newline":        {"notes<<END\nl1\nEND", map[string]any{"notes": "l1"}, ""},
		"no lines":               {"notes<<END\nEND\n", map[string]any{"notes": ""}, ""},
		"empty lines":            {"notes<<END\n\n\nEND\n", map[string]any{"notes": "\n"}, ""},
		"line ends of Windows":   {"notes<<END\r\nl1\r\nl2\r\nEND\r\n", map[string]any{"notes": "l1\r\nl2"}, ""},
		"among lines":            {"a=1\nnotes<<END\nb=2\nEND\nc=3\n", map[string]any{"a": "1", "notes": "b=2", "c": "3"}, ""},
		"two":                    {"a<<A\nx\nA\nb<<B\ny\nB\n", map[string]any{"a": "x", "b": "y"}, ""},
		"a value like a block":   {"a=b<<END\n", map[string]any{"a": "b<<END"}, ""},
		"a block in a block":     {"a<<END\nb<<EOF\nx\nEOF\nEND\n", map[string]any{"a": "b<<EOF\nx\nEOF"}, ""},
		"an equals sign":         {"a<<b=c\nx\nb=c\n", map[string]any{"a": "x"}, ""},
		"ends with the word":     {"a<<EOF\nunexpected EOF\nEOF\n", map[string]any{"a": "unexpected EOF"}, ""},
		"last of equal keys":     {"a=1\na<<END\n2\nEND\n", map[string]any{"a": "2"}, ""},
		"cleaned":                {"a<<END\nx\x00\xffy\nEND\n", map[string]any{"a": "x\uFFFD\uFFFDy"}, ""},
		"without its end":        {"a<<END\nx\ny=1\n", nil, `line 1 begins a block that no line "END" ends`},
		"end that is indented":   {"a<<END\nx\n END\n", nil, `no line "END" ends`},
		"no delimiter":           {"a<<\nx\n\n", nil, "line 1"},
		"key":                    {"1a<<END\nx\nEND\n", nil, "line 1"},
		"after it":               {"a<<END\nx\nEND\nnonsense\n", nil, "line 4"},
		"value that ends it":     {"a<<END\nx\nEND\nb=1\nEND\n", nil, `line 5 ends with "END", as a block before it does`},
		"value that opens more":  {"a<<END\nx\nEND\nb<<END\ny\nEND\n", nil, `line 4 ends with "END"`},
		"value without newline":  {"a<<END\nx\nEND\nb=1\nc=END\n", nil, `line 5 ends with "END"`},
		"value of Windows' ends": {"a<<END\nx\r\nEND\r\nb=1\r\nc=END\n", nil, `line 5 ends with "END"`},
		"a block hides the end":  {"a<<END\nx\nEND\nb<<X\ny\nEND\nX\n", nil, `line 6 ends with "END"`},
	} {
		got, err := parseOutputs(tt.text)
		if tt.problem != "" {
			wantFailure(t, name, err, run.ClassInvalid, tt.problem)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("%s: parseOutputs(%q) = %v (-want +got):\n%s", name, tt.text, err, diff)
		}
	}
}

// Whatever a value of a block holds, and whether or not it ends with a newline, the
// outputs are those that the script names, or the step fails.
func FuzzNoValueInjectsAnOutput(f *testing.F) {
	for _, seed := range []string{"", "x", "END", "x\nEND\nevil=1", "x\nEND\nevil<<END\ny", "x\nEND\nevil=", "x\nEND\nevil<<Q\n", "x\r\nEND\r\nevil=1\r\nz=", "after=2"} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, value string, newline bool) {
		text := "before=1\nnotes<<END\n" + value
		if newline {
			text += "\n"
		}
		outputs, err := parseOutputs(text + "END\nafter=1\n")
		if err != nil {
			return
		}
		want := map[string]any{"before": "1", "notes": sieve.Clean(value), "after": "1"}
		if !newline { // an empty value, or one that ends with a newline
			want["notes"] = strings.TrimSuffix(strings.TrimSuffix(sieve.Clean(value), "\n"), "\r")
		}
		if newline && strings.HasSuffix(value, "\r") {
			want["notes"] = strings.TrimSuffix(sieve.Clean(value), "\r")
		}
		if diff := cmp.Diff(want, outputs); diff != "" {
			t.Errorf("outputs with the value %q (-want +got):\n%s", value, diff)
		}
	})
}

func FuzzParseOutputs(f *testing.F) {
	for _, seed := range []string{"", "a=1\n", "a=1\r\nb=\n\n", "=", "a", "a==\x00\xff", "\n\n\nä=1", "a<<X\n\xff\r\nX\n", "a<<\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := parseOutputs(text)
		if err != nil {
			return
		}
		for key, value := range values {
			if s := fmt.Sprint(value); !outputKey.MatchString(key) || run.BadText(s) != "" {
				t.Errorf("parseOutputs(%q) gave %q=%q", text, key, value)
			}
		}
	})
}
