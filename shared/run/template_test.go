package run_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// after returns a plan of a bash step a, steps of other tools, and then b with the
// inputs.
func after(tool, inputs string) string {
	return withSteps(`{"name":"a","tool":"bash","inputs":{"script":"true"},"depends_on":[]}`,
		`{"name":"call","tool":"http","inputs":{"url":"https://x.example/"},"depends_on":["a"]}`,
		`{"name":"nap","tool":"sleep","depends_on":["a"]}`,
		`{"name":"beside","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]}`,
		fmt.Sprintf(`{"name":"b","tool":%q,"inputs":%s,"depends_on":["call","nap"]}`, tool, inputs))
}

const inputs = "/plan/steps/4/inputs"

func TestTemplatesInPlans(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		doc  string
		want []string // pointers
	}{
		"everywhere": {after("http", `{"url":"https://${{ steps.a.outputs.host }}/${{steps.a.outputs.id}}","method":"${{ steps.a.outputs.m }}",
			"headers":{"X":"${{ steps.call.outputs.headers.etag }}"},"body":"${{ steps.call.outputs.status }}"}`), nil},
		"environment":       {after("bash", `{"script":"echo $V","env":{"V":"v${{ steps.a.outputs.version }}"}}`), nil},
		"gate":              {after("gate:x", `{"command":"true","env":{"V":"${{ steps.call.outputs.body }}"}}`), nil},
		"report":            {after("gate:x", `{"report":{"format":"${{ steps.a.outputs.f }}","path":"out/${{ steps.a.outputs.p }}"}}`), nil},
		"a model":           {after("codegen", `{"instruction":"x","paths":["${{ steps.a.outputs.dir }}/*.go"],"model":"${{ steps.a.outputs.m }}"}`), nil},
		"files":             {after("workspace:write", `{"files":[{"path":"${{ steps.a.outputs.p }}","content":"${{ steps.a.outputs.c }}"},{"path":"x","content_base64":"${{ steps.a.outputs.c }}","mode":"${{ steps.a.outputs.m }}"}]}`), nil},
		"an artifact":       {after("workspace:write", `{"files":[{"path":"x","artifact_id":"${{ steps.a.outputs.id }}"}]}`), nil},
		"a workspace":       {`{"goal":"g","workspace":{"source":"git","git":{"url":"https://host/${{steps.a.outputs.v}}"}},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}`, []string{"/plan/workspace/git"}},
		"repository":        {after("git:checkout", `{"url":"${{ steps.a.outputs.url }}","ref":"${{ steps.a.outputs.ref }}","path":"${{ steps.a.outputs.p }}"}`), nil},
		"message":           {after("manual:ok", `{"message":"Ship ${{ steps.a.outputs.version }}?"}`), nil},
		"dotted name":       {withSteps(`{"name":"a.b-c","tool":"bash","inputs":{"script":"true"}}`, `{"name":"b","tool":"manual:ok","inputs":{"message":"${{ steps.a.b-c.outputs.v }}"}}`), nil},
		"escaped":           {after("manual:ok", `{"message":"\u0024{{ steps.a.outputs.v }}"}`), nil},
		"own dollars":       {after("manual:ok", `{"message":"$ {{ }} ${ } $${"}`), nil},
		"in a name":         {after("bash", `{"script":"true","env":{"${{ steps.a.outputs.v }}":""}}`), []string{inputs + "/env/${{ steps.a.outputs.v }}"}},
		"in a script":       {after("bash", `{"script":"echo ${{ steps.a.outputs.v }}"}`), []string{inputs + "/script"}},
		"in a command":      {after("gate:x", `{"command":"echo ${{ steps.nobody.outputs.v }}"}`), []string{inputs + "/command"}},
		"instruction":       {after("codegen", `{"instruction":"do ${{ steps.nobody.outputs.v }}"}`), []string{inputs + "/instruction"}},
		"about workflows":   {after("codegen", `{"instruction":"use ${{ github.sha }} and ${{steps_of}}, not $${{ steps.a.outputs.v }}"}`), nil},
		"written plainly":   {after("bash", `{"script":"cat > ci.yml <<'E'\nrun: $${{ github.sha }}\nE"}`), nil},
		"plain command":     {after("gate:x", `{"command":"grep '$${{ github' ci.yml"}`), nil},
		"plain content":     {after("workspace:write", `{"files":[{"path":"ci.yml","content":"run: $${{ github.sha }}, $${{ and ${{ steps.a.outputs.v }}"}]}`), nil},
		"plain and not":     {after("bash", `{"script":"echo '$${{' ${{ github.sha }}"}`), []string{inputs + "/script"}},
		"no such step":      {after("manual:ok", `{"message":"$${{ x }} ${{ steps.nobody.outputs.v }}"}`), []string{inputs + "/message"}},
		"a workspace's ref": {`{"goal":"g","workspace":{"source":"git","git":{"url":"https://host/x","ref":"${{steps.a.outputs.v}}"}},"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}`, []string{"/plan/workspace/git"}},
		"of a model":        {withSteps(`{"name":"a","tool":"codegen","inputs":{"instruction":"x"}}`, `{"name":"b","tool":"manual:ok","inputs":{"message":"${{ steps.a.outputs.model }}: ${{ steps.a.outputs.files }}"}}`), nil},
		"not of it":         {withSteps(`{"name":"a","tool":"codegen","inputs":{"instruction":"x"}}`, `{"name":"b","tool":"manual:ok","inputs":{"message":"${{ steps.a.outputs.text }}"}}`), []string{"/plan/steps/1/inputs/message"}},
		"for a number":      {after("sleep", `{"duration_s":"${{ steps.a.outputs.v }}"}`), []string{inputs + "/duration_s"}},
		"unknown step":      {after("manual:ok", `{"message":"${{ steps.nobody.outputs.v }}"}`), []string{inputs + "/message"}},
		"itself":            {after("manual:ok", `{"message":"${{ steps.b.outputs.v }}"}`), []string{inputs + "/message"}},
		"beside":            {after("manual:ok", `{"message":"${{ steps.beside.outputs.v }}"}`), []string{inputs + "/message"}},
		"later":             {withSteps(`{"name":"a","tool":"manual:ok","inputs":{"message":"${{ steps.b.outputs.v }}"}}`, `{"name":"b","tool":"bash","inputs":{"script":"true"}}`), []string{"/plan/steps/0/inputs/message"}},
		"no such key":       {after("manual:ok", `{"message":"${{ steps.call.outputs.code }}"}`), []string{inputs + "/message"}},
		"of a nap":          {after("manual:ok", `{"message":"${{ steps.nap.outputs.v }}"}`), []string{inputs + "/message"}},
		"two faults":        {after("bash", `{"script":"true","env":{"A":"${{ steps.x.outputs.v }}","B":"${{ steps.y.outputs.v }}","C":"\u0000${{ steps.a.outputs.v }}"}}`), []string{inputs + "/env/C", inputs + "/env/A", inputs + "/env/B"}},
		"open":              {after("manual:ok", `{"message":"${{ steps.a.outputs.v }"}`), []string{inputs + "/message"}},
		"empty":             {after("manual:ok", `{"message":"${{}}"}`), []string{inputs + "/message"}},
		"expression":        {after("manual:ok", `{"message":"${{ steps.a.outputs.v || 'x' }}"}`), []string{inputs + "/message"}},
		"of no step":        {after("manual:ok", `{"message":"${{ github.sha }}"}`), []string{inputs + "/message"}},
		"no key":            {after("manual:ok", `{"message":"${{ steps.a.outputs }}"}`), []string{inputs + "/message"}},
		"in a workflow":     {after("workspace:write", `{"files":[{"path":"ci.yml","content":"run: ${{ github.sha }}"}]}`), []string{inputs + "/files/0/content"}},
		"malformed url":     {after("http", `{"url":"nowhere ${{ nothing }}"}`), []string{inputs + "/url"}},
		"of an answer":      {after("manual:ok", `{"message":"${{ steps.call.outputs.json }} ${{ steps.call.outputs.json.items.0.id }} ${{ steps.call.outputs.headers.etag }}"}`), nil},
		"into a text":       {after("manual:ok", `{"message":"${{ steps.call.outputs.body.id }} ${{ steps.call.outputs.status.x }}"}`), []string{inputs + "/message", inputs + "/message"}},
		"in a cycle": {withSteps(`{"name":"a","tool":"manual:ok","inputs":{"message":"${{ steps.b.outputs.v }}"},"depends_on":["b"]}`, `{"name":"b","tool":"bash","inputs":{"script":"true"},"depends_on":["a"]}`),
			[]string{"/plan/steps/0/depends_on"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good, err := parse(t, tt.doc).Normalise()
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatalf("Normalise() = %v, want nil", err)
				}
				wantFixedPoint(t, good)
				return
			}
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Code != "invalid-plan" {
				t.Fatalf("Normalise() = %v, want invalid-plan", err)
			}
			var got []string
			for _, field := range f.Fields {
				got = append(got, field.Pointer)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Normalise() points elsewhere (-want +got):\n%s\n%v", diff, f.Fields)
			}
		})
	}
}

// state answers with outputs by step.
func state(docs map[string]string) func(string) ([]byte, error) {
	return func(step string) ([]byte, error) { return []byte(docs[step]), nil }
}

func TestResolve(t *testing.T) {
	t.Parallel()
	known := state(map[string]string{
		"a":     `{"exit_code":0,"outputs":{"version":"1.2","exit_code":"own","a.b":"dotted","url":"https://x.example/p","evil":"x\"}; ${{ steps.a.outputs.version }}","lines":"a\nb","host":"127.1"}}`,
		"call":  `{"status":200,"headers":{},"body":" {\"id\":9007199254740993,\"items\":[{\"sha\":\"ab\"},[true,null]],\"a.b\":\"dotted\",\"0\":\"zero\"}\n"}`,
		"text":  `{"status":200,"headers":{},"body":"<id>7</id>"}`,
		"twice": `{"status":200,"headers":{},"body":"{\"items\":[{\"id\":1,\"id\":2}]}"}`,
		"half":  `{"status":200,"headers":{},"body":"{\"items\":[\"\\ud83d\"]}"}`,
		"cut":   `{"status":200,"headers":{},"body":"{\"id\":","truncated":true}`,
		"list":  `{"status":200,"headers":{},"body":"[{\"id\":7}]"}`,
		"h":     `{"status":201,"headers":{"etag":"\"v1\"","x.y":"z"},"body":"{\"id\":7}","big":12345678901234567890, "list":[1, "a"], "none":null, "yes":true}`,
	})
	for _, tt := range []struct{ tool, inputs, want string }{
		{"bash", `{"script":"echo $V", "env":{"V":"v${{ steps.a.outputs.version }}-${{steps.h.outputs.status}}"}}`, `{"script":"echo $V","env":{"V":"v1.2-201"}}`},
		{"bash", `{"script":"true","env":{"V":"${{ steps.a.outputs.exit_code }} ${{ steps.a.outputs.a.b }} ${{ steps.a.outputs.outputs.version }}"}}`, `{"script":"true","env":{"V":"0 dotted 1.2"}}`},
		{"manual:x", `{"message":"${{ steps.h.outputs.headers.etag }} ${{ steps.h.outputs.headers.x.y }} ${{ steps.h.outputs.big }} ${{ steps.h.outputs.list }} ${{ steps.h.outputs.none }} ${{ steps.h.outputs.yes }} ${{ steps.h.outputs.body }}"}`,
			`{"message":"\"v1\" z 12345678901234567890 [1,\"a\"] null true {\"id\":7}"}`},
		{"manual:x", `{"message":"${{ steps.call.outputs.json.id }} ${{ steps.call.outputs.json.items.0.sha }} ${{ steps.call.outputs.json.items.1 }} ${{ steps.call.outputs.json.items.1.1 }} ${{ steps.call.outputs.json.a.b }} ${{ steps.call.outputs.json.0 }} ${{ steps.list.outputs.json.0.id }}"}`,
			`{"message":"9007199254740993 ab [true,null] null dotted zero 7"}`},
		{"manual:x", `{"message":"${{ steps.list.outputs.json }} ${{ steps.h.outputs.list.1 }}"}`, `{"message":"[{\"id\":7}] a"}`},
		// A value is text, whatever it looks like.
		{"workspace:write", `{"files":[{"path":"f","content":"${{ steps.a.outputs.evil }}"}]}`, `{"files":[{"path":"f","content":"x\"}; ${{ steps.a.outputs.version }}"}]}`},
		{"http", `{"url":"${{ steps.a.outputs.url }}?v=${{ steps.a.outputs.version }}","expect_status":[200]}`, `{"url":"https://x.example/p?v=1.2","expect_status":[200]}`},
		{"manual:x", `{"message":"$${{ steps.a.outputs.version }}, $$${{, $${{${{ steps.a.outputs.version }}"}`, `{"message":"${{ steps.a.outputs.version }}, $${{, ${{1.2"}`},
		{"bash", `{"script":"echo '$${{ steps.a.outputs.version }}' $$","env":{"V":"$${{"}}`, `{"script":"echo '${{ steps.a.outputs.version }}' $$","env":{"V":"${{"}}`},
		{"codegen", `{"instruction":"run: echo ${{ github.sha }}, $${{ steps.a.outputs.version }}"}`, `{"instruction":"run: echo ${{ github.sha }}, ${{ steps.a.outputs.version }}"}`},
		{"gate:x", `{"command":"grep '$${{' ci.yml"}`, `{"command":"grep '${{' ci.yml"}`},
		{"codegen", `{"instruction":"run: echo ${{ github.sha }}", "paths":[]}`, `{"instruction":"run: echo ${{ github.sha }}", "paths":[]}`},
		{"bash", `{"script":"true","env":{"V":"plain"}}`, `{"script":"true","env":{"V":"plain"}}`},
		{"bash", `{"script":"echo '\u0001'", "env":{}}`, `{"script":"echo '\u0001'", "env":{}}`},
	} {
		got, err := run.Resolve(tt.tool, []byte(tt.inputs), known)
		if err != nil || string(got) != tt.want {
			t.Errorf("Resolve(%s, %s) = %s, %v, want %s", tt.tool, tt.inputs, got, err, tt.want)
		}
	}
	for _, tt := range []struct{ tool, inputs, pointer, says string }{
		{"manual:x", `{"message":"${{ steps.a.outputs.gone }}"}`, "/message", `step a has no output "gone"`},
		{"manual:x", `{"message":"${{ steps.nobody.outputs.v }}"}`, "/message", `step nobody has no output "v"`},
		{"manual:x", `{"message":"${{ steps.h.outputs.body.id }}"}`, "/message", `step h has no output "body.id"`},
		{"manual:x", `{"message":"${{ steps.call.outputs.json.none }}"}`, "/message", `step call has no output "json.none"`},
		{"manual:x", `{"message":"${{ steps.call.outputs.json.items.2 }}"}`, "/message", `step call has no output "json.items.2"`},
		{"manual:x", `{"message":"${{ steps.call.outputs.json.items.01 }}"}`, "/message", `step call has no output "json.items.01"`},
		{"manual:x", `{"message":"${{ steps.call.outputs.json.items.-1 }}"}`, "/message", `step call has no output "json.items.-1"`},
		{"manual:x", `{"message":"${{ steps.text.outputs.json.id }}"}`, "/message", "the body of step text is not JSON"},
		{"manual:x", `{"message":"${{ steps.twice.outputs.json.items }}"}`, "/message", "the body of step twice has the member /items/0/id twice"},
		{"manual:x", `{"message":"${{ steps.half.outputs.json.items }}"}`, "/message", "the body of step half contains half a surrogate pair at /items/0"},
		{"manual:x", `{"message":"${{ steps.cut.outputs.json.id }}"}`, "/message", "the body of step cut is not complete"},
		{"http", `{"url":"https://${{ steps.a.outputs.host }}/"}`, "/url", "has a host that is neither a name nor an address"},
		{"http", `{"url":"https://x/","headers":{"X":"${{ steps.a.outputs.lines }}"}}`, "/headers/X", "control character"},
		{"workspace:write", `{"files":[{"path":"../${{ steps.a.outputs.version }}","content":""}]}`, "/files/0/path", ".."},
		{"workspace:write", `{"files":[{"path":"x","artifact_id":"${{ steps.a.outputs.version }}"}]}`, "/files/0/artifact_id", "no such artifact"},
		{"git:checkout", `{"url":"https://x/","ref":"${{ steps.a.outputs.lines }}"}`, "/ref", "a branch"},
		{"gate:x", `{"report":{"format":"${{ steps.a.outputs.version }}","path":"p"}}`, "/report/format", "must be one of"},
		{"codegen", `{"instruction":"x","paths":["` + strings.Repeat("{a,b}", 10) + `${{ steps.a.outputs.version }}"]}`, "/paths/0", "alternatives"},
		{"codegen", `{"instruction":"x","paths":["../${{ steps.a.outputs.version }}"]}`, "/paths/0", ".."},
	} {
		_, err := run.Resolve(tt.tool, []byte(tt.inputs), known)
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Kind != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Pointer != tt.pointer || !strings.Contains(f.Detail, tt.says) {
			t.Errorf("Resolve(%s, %s) = %v, want invalid at %s: %s", tt.tool, tt.inputs, err, tt.pointer, tt.says)
		}
	}
	broken := errors.New("storage is down")
	if _, err := run.Resolve("manual:x", []byte(`{"message":"${{ steps.a.outputs.v }}"}`), func(string) ([]byte, error) { return nil, broken }); err != broken {
		t.Errorf("Resolve() = %v, want %v", err, broken)
	}
	// What a NUL would do to Postgres, and a multiplied output to memory.
	for _, value := range []string{`"a\u0000b"`, `"` + strings.Repeat("x", 60<<10) + `"`} {
		_, err := run.Resolve("workspace:write", []byte(`{"files":[{"path":"f","content":"`+strings.Repeat("${{ steps.a.outputs.v }}", 20)+`"}]}`), state(map[string]string{"a": `{"v":` + value + `}`}))
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("Resolve(20 times %.20s) = %v, want invalid", value, err)
		}
	}
}

// Whatever stands between templates and whatever they stand for, the resolved
// string is the pieces one after the other.
func TestResolveIsConcatenation(t *testing.T) {
	t.Parallel()
	text := rapid.StringOf(rapid.RuneFrom([]rune("$ {}ab\"\\\né€"))).Filter(func(s string) bool {
		return !strings.Contains(s, "${{") && !strings.HasSuffix(s, "$")
	})
	rapid.Check(t, func(rt *rapid.T) {
		values, inputs, want := map[string]string{}, "", ""
		for i := range rapid.IntRange(0, 6).Draw(rt, "pieces") {
			piece := text.Draw(rt, "text")
			key := fmt.Sprint("k", i)
			values[key] = rapid.OneOf(rapid.String().Filter(func(s string) bool { return run.BadText(s) == "" }), rapid.Just("${{ steps.a.outputs.k0 }}")).Draw(rt, "value")
			inputs += piece + "${{ steps.a.outputs." + key + " }}"
			want += piece + values[key]
		}
		doc, _ := json.Marshal(map[string]any{"outputs": values})
		raw, _ := json.Marshal(run.BashInputs{Script: "true", Env: map[string]string{"V": inputs}})
		got, err := run.Resolve("bash", raw, func(string) ([]byte, error) { return doc, nil })
		var in run.BashInputs
		if err == nil {
			err = json.Unmarshal(got, &in)
		}
		if err != nil || in.Env["V"] != want || in.Script != "true" {
			rt.Fatalf("Resolve(%q) = %q, %v, want %q", inputs, in.Env["V"], err, want)
		}
	})
}

// Resolving never breaks JSON, and what has no template is not touched.
func FuzzResolve(f *testing.F) {
	f.Add("bash", []byte(`{"script":"true","env":{"V":"${{ steps.a.outputs.v }}"}}`), []byte(`{"v":"x"}`))
	f.Add("http", []byte(`{"url":"${{ steps.a.outputs.v.w }}"}`), []byte(`{"v":{"w":"https://x/"}}`))
	f.Add("manual:x", []byte(`{"message":"${{ steps.a.outputs.v }"}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, tool string, inputs, outputs []byte) {
		if !run.KnownTool(tool) {
			return
		}
		got, err := run.Resolve(tool, inputs, func(string) ([]byte, error) { return outputs, nil })
		switch {
		case err == nil && json.Valid(inputs) && !json.Valid(got):
			t.Errorf("Resolve(%s) = %s, which is no JSON", inputs, got)
		case !strings.Contains(string(inputs), "${{") && !strings.Contains(string(inputs), `\u`) && (err != nil || string(got) != string(inputs)):
			t.Errorf("Resolve(%s) = %s, %v, want the inputs", inputs, got, err)
		}
	})
}
