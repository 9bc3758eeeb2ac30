package integration_test

import (
	"fmt"
	"slices"
	"strings"

	"nofx.dev/gateway/api"
)

// The codes of refusals, under short names.
const (
	malformed  = api.ProblemCodeMalformedJSON
	unknown    = api.ProblemCodeUnknownField
	duplicate  = api.ProblemCodeDuplicateKey
	deep       = api.ProblemCodeTooDeep
	parameter  = api.ProblemCodeBadParameter
	cursor     = api.ProblemCodeBadCursor
	field      = api.ProblemCodeInvalidField
	planCode   = api.ProblemCodeInvalidPlan
	tool       = api.ProblemCodeUnknownTool
	notFound   = api.ProblemCodeNotFound
	media      = api.ProblemCodeUnsupportedMediaType
	large413   = api.ProblemCodeTooLarge
	noReason   = api.ProblemCodeReasonRequired
	anonymous  = api.ProblemCodeUnauthenticated
	forbidden  = api.ProblemCodeForbidden
	transition = api.ProblemCodeIllegalTransition
	stale      = api.ProblemCodeStaleVersion
)

const createRuns = "POST /api/runs"

// goal returns a good plan with another goal, written as it is.
func goal(raw string) string {
	return `{"plan":{"goal":` + raw + `,"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}]}}`
}

// syntax returns what cannot be read, or only with mistakes of its own.
func syntax() []bad {
	create := func(name, body string, status int, code api.ProblemCode, pointer string) bad {
		return bad{name, createRuns, "", body, status, code, pointer}
	}
	good := goal(`"g"`)
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	huge := goal(`"` + strings.Repeat("g", 1<<20) + `"`)
	return []bad{
		create("no body", "", 400, malformed, ""),
		create("spaces", "  \n", 400, malformed, ""),
		create("no JSON", "plan: please", 400, malformed, ""),
		create("truncated", good[:len(good)-3], 400, malformed, ""),
		create("trailing data", good+"{}", 400, malformed, ""),
		create("trailing comma", `{"plan":{},}`, 400, malformed, ""),
		create("comment", "/* plan */"+good, 400, malformed, ""),
		create("NaN", goal("NaN"), 400, malformed, ""),
		create("two byte order marks", "\ufeff\ufeff"+good, 400, malformed, ""),
		create("control character", goal("\"a\x01b\""), 400, malformed, ""),
		create("an array", "[]", 400, malformed, ""),
		create("null", "null", 422, planCode, "/plan/goal"),
		create("an empty object", "{}", 422, planCode, "/plan/goal"),
		create("plan is a string", `{"plan":"make build"}`, 400, malformed, "/plan"),
		create("goal is a number", goal("7"), 400, malformed, "/plan/goal"),
		create("steps is an object", `{"plan":{"goal":"g","steps":{}}}`, 400, malformed, "/plan/steps"),
		create("a step is null", `{"plan":{"goal":"g","steps":[null]}}`, 422, planCode, "/plan/steps/0/name"),
		create("timeout is a string", withStep(`"timeout_s":"5"`), 400, malformed, "/plan/steps/0/timeout_s"),
		create("timeout is a fraction", withStep(`"timeout_s":1.5`), 400, malformed, "/plan/steps/0/timeout_s"),
		create("depends_on is a string", withStep(`"depends_on":"a"`), 400, malformed, "/plan/steps/0/depends_on"),
		create("label is a number", withPlan(`"labels":{"team":1}`), 400, malformed, "/plan/labels/team"),

		create("unknown field", `{"plan":{},"priority":1}`, 400, unknown, "/priority"),
		create("unknown field of the plan", withPlan(`"state":"succeeded"`), 400, unknown, "/plan/state"),
		create("unknown field of a step", withStep(`"fence":7`), 400, unknown, "/plan/steps/0/fence"),
		create("field in capitals", `{"Plan":{}}`, 400, unknown, "/Plan"),
		create("duplicate key", `{"plan":{"goal":"g","goal":"h","steps":[]}}`, 400, duplicate, "/plan/goal"),
		create("duplicate key by escape", `{"plan":{"goal":"g","g\u006fal":"h","steps":[]}}`, 400, duplicate, "/plan/goal"),
		create("duplicate key in inputs", withInputs(`{"script":"a","script":"b"}`), 400, duplicate, "/plan/steps/0/inputs/script"),

		create("33 deep", withInputs(`{"script":`+nested(33-5)+`}`), 400, deep, "/plan/steps/0/inputs/script"+strings.Repeat("/0", 27)),
		create("100,000 deep", nested(100_000), 400, deep, strings.Repeat("/0", 32)),
		create("100,000 deep and open", strings.Repeat(`{"a":`, 100_000), 400, deep, strings.Repeat("/a", 32)),
		create("too many items", withStep(`"depends_on":[`+strings.Repeat(`"a",`, 10_000)+`"a"]`), 400, malformed, "/plan/steps/0/depends_on"),

		create("huge", huge, 413, large413, ""),
		{"huge in chunks", createRuns, "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(huge), huge), 413, large413, ""},
		{"huge by its own word", createRuns, "Content-Length: 9999999999", "{", 413, large413, ""},
		{"shorter than it says", createRuns, "Content-Length: 1000", good, 400, malformed, ""},
		{"broken chunks", createRuns, "Transfer-Encoding: chunked", "zz\r\n{}\r\n", 400, malformed, ""},

		create("NUL", goal(`"a\u0000b"`), 422, field, "/plan/goal"),
		create("NUL in a script", withInputs(`{"script":"echo \u0000"}`), 422, field, "/plan/steps/0/inputs/script"),
		create("NUL in a name of a member", withPlan(`"labels":{"a\u0000":"b"}`), 422, field, "/plan/labels/a\u0000"),
		create("invalid UTF-8", goal("\"a\xffb\""), 422, field, "/plan/goal"),
		create("overlong UTF-8", goal("\"a\xc0\x80b\""), 422, field, "/plan/goal"),
		create("UTF-8 of a surrogate", goal("\"a\xed\xa0\x80b\""), 422, field, "/plan/goal"),
		create("lone high surrogate", goal(`"a\ud83db"`), 422, field, "/plan/goal"),
		create("lone low surrogate", goal(`"\ude00"`), 422, field, "/plan/goal"),
		create("surrogates in the wrong order", goal(`"\ude00\ud83d"`), 422, field, "/plan/goal"),
		create("1e400", withStep(`"retry":{"initial_s":1e400}`), 422, field, "/plan/steps/0/retry/initial_s"),
		create("1e400 in inputs", withInputs(`{"script":"true","n":1e400}`), 422, field, "/plan/steps/0/inputs/n"),
		create("beyond 64 bits", withStep(`"timeout_s":9223372036854775808`), 422, field, "/plan/steps/0/timeout_s"),
		create("an endless number", withStep(`"timeout_s":1`+strings.Repeat("0", 1000)), 422, field, "/plan/steps/0/timeout_s"),
		{"NUL in a reason", "POST /api/gates/gate_" + strings.Repeat("0", 32) + "/reject", "", `{"reason":"\u0000"}`, 422, field, "/reason"},
	}
}

func withPlan(member string) string {
	return `{"plan":{"goal":"g","steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}}],` + member + `}}`
}

func withStep(member string) string {
	return `{"plan":{"goal":"g","steps":[{"name":"a","tool":"bash","inputs":{"script":"true"},` + member + `}]}}`
}

func withInputs(inputs string) string { return withTool("bash", inputs) }

func withTool(tool, inputs string) string {
	return `{"plan":{"goal":"g","steps":[{"name":"a","tool":"` + tool + `","inputs":` + inputs + `}]}}`
}

// steps returns a plan of steps "name" or "name:needs,needs".
func steps(specs ...string) string {
	list := make([]string, len(specs))
	for i, spec := range specs {
		name, needs, has := strings.Cut(spec, ":")
		list[i] = fmt.Sprintf(`{"name":%q,"tool":"bash","inputs":{"script":"true"}`, name)
		if has {
			list[i] += `,"depends_on":[`
			if needs != "" {
				list[i] += `"` + strings.ReplaceAll(needs, ",", `","`) + `"`
			}
			list[i] += "]"
		}
		list[i] += "}"
	}
	return `{"plan":{"goal":"g","steps":[` + strings.Join(list, ",") + `]}}`
}

// plans can be read and are no plans.
func plans() (all []bad) {
	add := func(name, body string, code api.ProblemCode, pointer string) {
		all = append(all, bad{name, createRuns, "", body, 422, code, pointer}, bad{name + ", preview", "POST /api/runs/preview", "", body, 422, code, pointer})
	}
	const first = "/plan/steps/0"
	add("cycle", steps("a:c", "b:a", "c:b"), planCode, "/plan/steps/0/depends_on")
	add("cycle behind a step", steps("a:", "b:a,d", "c:b", "d:c"), planCode, "/plan/steps/1/depends_on")
	add("self-dependency", steps("a:a"), planCode, "/plan/steps/0/depends_on")
	add("dangling dependency", steps("a:", "b:nobody"), planCode, "/plan/steps/1/depends_on/0")
	add("dependency twice", steps("a:", "b:a,a"), planCode, "/plan/steps/1/depends_on/1")
	add("two of one name", steps("a", "a"), planCode, "/plan/steps/1/name")
	add("no steps", steps(), planCode, "/plan/steps")
	add("1,001 steps", steps(numbered(1001)...), planCode, "/plan/steps")
	add("no goal", goal(`""`), planCode, "/plan/goal")
	add("long goal", goal(`"`+strings.Repeat("g", 4097)+`"`), planCode, "/plan/goal")
	for _, name := range []string{"", "A", "a b", ".a", "../a", "a/b", strings.Repeat("a", 65), "a\u202eb", "a\u200bb", "é"} {
		add("name "+name, steps(name), planCode, first+"/name")
	}
	for _, name := range []string{"", "shell", "Bash", "bash ", "gate:", "gate:../x", "manual:", "manual:A", "HTTP", "http:get", "codegen:x", "workspace:read"} {
		add("tool "+name, withTool(name, `{}`), tool, first+"/tool")
	}
	for _, tt := range []struct{ tool, inputs, pointer string }{
		{"bash", `{}`, "/script"},
		{"bash", `{"script":""}`, "/script"},
		{"bash", `{"script":"\n# make"}`, "/script"},
		{"bash", `{"script":"true","shell":"zsh"}`, "/shell"},
		{"bash", `{"script":7}`, "/script"},
		{"bash", `{"script":"echo ${{ steps.a.outputs.x }}"}`, "/script"},
		{"bash", `{"script":"true","env":{"A B":"c"}}`, "/env/A B"},
		{"bash", `{"script":"true","env":{"NOFX_RUN_ID":"c"}}`, "/env/NOFX_RUN_ID"},
		{"bash", `{"script":"true","env":{"A":7}}`, "/env/A"},
		{"bash", `[]`, ""},
		{"gate:unit", `{"command":"${{ x }}"}`, "/command"},
		{"gate:unit", `{"command":"# todo"}`, "/command"},
		{"gate:unit", `{"command":"go test -failfast","report":{"format":"gotest","path":"r","flaky":"pass"}}`, "/report/flaky"},
		{"gate:unit", `{"report":{"format":"tap","path":"r"}}`, "/report/format"},
		{"gate:unit", `{"report":{"format":"junit","path":"../r.xml"}}`, "/report/path"},
		{"gate:unit", `{"report":{"format":"junit"}}`, "/report/path"},
		{"gate:unit", `{"report":{"format":"junit","path":"[.xml"}}`, "/report/path"},
		{"gate:unit", `{"report":{"format":"sarif","path":"r","fail_on":"none"}}`, "/report/fail_on"},
		{"gate:unit", `{"report":{"format":"gotest","path":"r","flaky":"yes"}}`, "/report/flaky"},
		{"gate:unit", `{"report":{"format":"junit","path":"r.xml","as":"x"}}`, "/report/as"},
		{"codegen", `{}`, "/instruction"},
		{"codegen", `{"instruction":"use ${{ steps.a.outputs.x }}"}`, "/instruction"},
		{"codegen", `{"instruction":"x","paths":["/etc/*"]}`, "/paths/0"},
		{"codegen", `{"instruction":"x","paths":["**/*.go","a/../../b"]}`, "/paths/1"},
		{"codegen", `{"instruction":"x","paths":["[a"]}`, "/paths/0"},
		{"codegen", `{"instruction":"x","model":"a b"}`, "/model"},
		{"codegen", `{"instruction":"x","max_tokens":0}`, "/max_tokens"},
		{"codegen", `{"instruction":"x","temperature":2}`, "/temperature"},
		{"workspace:write", `{"files":[{"path":"../x","content":""}]}`, "/files/0/path"},
		{"workspace:write", `{"files":[{"path":"a/../../x","content":""}]}`, "/files/0/path"},
		{"workspace:write", `{"files":[{"path":"/etc/passwd","content":""}]}`, "/files/0/path"},
		{"workspace:write", `{"files":[{"path":"a//b","content":""}]}`, "/files/0/path"},
		{"workspace:write", `{"files":[{"path":".nofx/x","content":""}]}`, "/files/0/path"},
		{"workspace:write", `{"files":[{"path":"a","content":"","content_base64":""}]}`, "/files/0"},
		{"workspace:write", `{"files":[{"path":"a"}]}`, "/files/0"},
		{"workspace:write", `{"files":[{"path":"a","artifact_id":"art_x"}]}`, "/files/0/artifact_id"},
		{"workspace:write", `{"files":[{"path":"a","content":"","artifact_id":"art_x"}]}`, "/files/0"},
		{"workspace:write", `{"files":[{"path":"a","content_base64":"***"}]}`, "/files/0/content_base64"},
		{"workspace:write", `{"files":[{"path":"a","content":"","mode":"4755"}]}`, "/files/0/mode"},
		{"git:checkout", `{"url":"ssh://host/x"}`, "/url"},
		{"git:checkout", `{"url":"ext::sh -c id"}`, "/url"},
		{"git:checkout", `{"url":"https://host/x","ref":"--upload-pack=id"}`, "/ref"},
		{"git:checkout", `{"url":"https://host/x","path":"../y"}`, "/path"},
		{"git:checkout", `{"url":"https://host/x","depth":-1}`, "/depth"},
		{"http", `{}`, "/url"},
		{"http", `{"url":"/x"}`, "/url"},
		{"http", `{"url":"ftp://host/x"}`, "/url"},
		{"http", `{"url":"file:///etc/passwd"}`, "/url"},
		{"http", `{"url":"https://me:secret@host/"}`, "/url"},
		{"http", `{"url":"http://2130706433/"}`, "/url"},
		{"http", `{"url":"http://host:0/"}`, "/url"},
		{"http", `{"url":"https://host/","method":"TRACE"}`, "/method"},
		{"http", `{"url":"https://host/","method":"post"}`, "/method"},
		{"http", `{"url":"https://host/","body":"x"}`, "/body"},
		{"http", `{"url":"https://host/","method":"POST","body":{"a":1}}`, "/body"},
		{"http", `{"url":"https://host/","headers":{"Idempotency-Key":"mine"}}`, "/headers/Idempotency-Key"},
		{"http", `{"url":"https://host/","headers":{"host":"other"}}`, "/headers/host"},
		{"http", `{"url":"https://host/","headers":{"A B":"x"}}`, "/headers/A B"},
		{"http", `{"url":"https://host/","headers":{"A":"x\r\nB: y"}}`, "/headers/A"},
		{"http", `{"url":"https://host/","headers":{"A":7}}`, "/headers/A"},
		{"http", `{"url":"https://host/","expect_status":[]}`, "/expect_status"},
		{"http", `{"url":"https://host/","expect_status":[99]}`, "/expect_status/0"},
		{"http", `{"url":"https://host/","expect_status":200}`, "/expect_status"},
		{"http", `{"url":"https://host/","timeout":1}`, "/timeout"},
		{"bash", `{"script":"true","env":{"A":"${{ steps.b.outputs.x }}"}}`, "/env/A"},
		{"bash", `{"script":"true","env":{"A":"${{ steps.a.outputs.x }}"}}`, "/env/A"},
		{"bash", `{"script":"true","env":{"A":"${{ secrets.TOKEN }}"}}`, "/env/A"},
		{"manual:ship", `{"message":"${{ steps.b.outputs.x"}`, "/message"},
		{"sleep", `{"duration_s":-1}`, "/duration_s"},
		{"sleep", `{"duration_s":99999999}`, "/duration_s"},
		{"manual:ship", `{}`, "/message"},
		{"manual:ship", `{"message":"Go?","expires_s":0}`, "/expires_s"},
		{"manual:ship", `{"message":"Go?","approvals":21}`, "/approvals"},
	} {
		add(tt.tool+" "+tt.inputs, withTool(tt.tool, tt.inputs), planCode, first+"/inputs"+tt.pointer)
	}
	later := func(tool, inputs, message string) string {
		return fmt.Sprintf(`{"plan":{"goal":"g","steps":[{"name":"a","tool":%q,"inputs":%s,"depends_on":[]},{"name":"b","tool":"manual:x","inputs":{"message":%q},"depends_on":[]}]}}`, tool, inputs, message)
	}
	add("output of a step beside", later("bash", `{"script":"true"}`, "${{ steps.a.outputs.x }}"), planCode, "/plan/steps/1/inputs/message")
	add("output that no such step has", strings.Replace(later("sleep", `{}`, "${{ steps.a.outputs.x }}"), `"depends_on":[]}]`, `"depends_on":["a"]}]`, 1), planCode, "/plan/steps/1/inputs/message")
	add("tool that the policy forbids", withPlan(`"policy":{"tools_allowed":["gate:*"]}`), planCode, first+"/tool")
	add("secret that is not there", withPlan(`"policy":{"secrets":["TOKEN"]}`), planCode, "/plan/policy/secrets/0")
	add("network", withPlan(`"policy":{"network":"all"}`), planCode, "/plan/policy/network")
	add("host that the tenant does not grant", withPlan(`"policy":{"network":{"hosts":["modules.example.org"]}}`), planCode, "/plan/policy/network/hosts/0")
	add("address in the place of a host", withPlan(`"policy":{"network":{"hosts":["169.254.169.254:80"]}}`), planCode, "/plan/policy/network/hosts/0")
	add("workspace of another source", withPlan(`"workspace":{"source":"svn"}`), planCode, "/plan/workspace/source")
	add("workspace of no repository", withPlan(`"workspace":{"source":"git"}`), planCode, "/plan/workspace/git")
	add("workspace by ssh", withPlan(`"workspace":{"source":"git","git":{"url":"ssh://host/x"}}`), planCode, "/plan/workspace/git/url")
	add("workspace at an option", withPlan(`"workspace":{"source":"git","git":{"url":"https://host/x","ref":"--upload-pack=id"}}`), planCode, "/plan/workspace/git/ref")
	add("workspace of no artifact", withPlan(`"workspace":{"source":"upload"}`), planCode, "/plan/workspace/artifact_id")
	add("workspace of a run", withPlan(`"workspace":{"source":"upload","artifact_id":"run_`+strings.Repeat("0", 32)+`"}`), planCode, "/plan/workspace/artifact_id")
	add("workspace of an artifact nowhere", withPlan(`"workspace":{"source":"upload","artifact_id":"art_`+strings.Repeat("0", 32)+`"}`), planCode, "/plan/workspace/artifact_id")
	add("empty workspace of a repository", withPlan(`"workspace":{"git":{"url":"https://host/x"}}`), planCode, "/plan/workspace/git")
	add("artifact nowhere", withTool("workspace:write", `{"files":[{"path":"a","artifact_id":"art_`+strings.Repeat("0", 32)+`"}]}`), planCode, first+"/inputs/files/0/artifact_id")
	add("a tool that is ours", withTool("workspace:unpack", `{"artifact_id":"art_`+strings.Repeat("0", 32)+`"}`), tool, first+"/tool")
	add("a name that is ours", `{"plan":{"goal":"g","steps":[{"name":"workspace~git","tool":"bash","inputs":{"script":"true"}}]}}`, planCode, first+"/name")
	add("label's name", withPlan(`"labels":{"A B":"c"}`), planCode, "/plan/labels/A B")
	add("long label", withPlan(`"labels":{"a":"`+strings.Repeat("x", 256)+`"}`), planCode, "/plan/labels/a")
	for _, timeout := range []string{"-1", "0", "86401"} {
		add("timeout "+timeout, withStep(`"timeout_s":`+timeout), planCode, first+"/timeout_s")
	}
	add("no attempts", withStep(`"retry":{"max_attempts":0}`), planCode, first+"/retry/max_attempts")
	add("fewer attempts", withStep(`"retry":{"max_attempts":-1}`), planCode, first+"/retry/max_attempts")
	add("too many attempts", withStep(`"retry":{"max_attempts":101}`), planCode, first+"/retry/max_attempts")
	add("another back-off", withStep(`"retry":{"backoff":"linear"}`), planCode, first+"/retry/backoff")
	add("no pause", withStep(`"retry":{"initial_s":0}`), planCode, first+"/retry/initial_s")
	add("a long pause", withStep(`"retry":{"initial_s":301}`), planCode, first+"/retry/initial_s")
	return all
}

// uploads returns announcements of artifacts that cannot be.
func uploads(mine things) (all []bad) {
	sum := strings.Repeat("0123456789abcdef", 4)
	add := func(name, body string, status int, code api.ProblemCode, pointer string) {
		all = append(all, bad{name, "POST /api/artifacts", "", body, status, code, pointer})
	}
	announce := func(name, size, sum string) string {
		return `{"name":` + name + `,"size_bytes":` + size + `,"sha256":"` + sum + `"}`
	}
	add("nothing", `{}`, 422, field, "/name")
	add("no name", announce(`""`, "1", sum), 422, field, "/name")
	add("long name", announce(`"`+strings.Repeat("n", 256)+`"`, "1", sum), 422, field, "/name")
	add("bidi name", announce(`"a\u202eb"`, "1", sum), 422, field, "/name")
	add("NUL in the name", announce(`"a\u0000b"`, "1", sum), 422, field, "/name")
	add("empty", announce(`"a"`, "0", sum), 422, field, "/size_bytes")
	add("negative", announce(`"a"`, "-1", sum), 422, field, "/size_bytes")
	add("too large", announce(`"a"`, "1073741825", sum), 422, field, "/size_bytes")
	add("beyond 64 bits", announce(`"a"`, "9223372036854775808", sum), 422, field, "/size_bytes")
	add("half a byte", announce(`"a"`, "1.5", sum), 400, malformed, "/size_bytes")
	add("no digest", announce(`"a"`, "1", ""), 422, field, "/sha256")
	add("another digest", announce(`"a"`, "1", strings.ToUpper(sum)), 422, field, "/sha256")
	add("of somebody else's run", `{"name":"a","size_bytes":1,"sha256":"`+sum+`","run_id":"`+mine.run+`"}`, 400, unknown, "/run_id")
	all = append(all,
		bad{"completion of a run", "POST /api/artifacts/" + mine.run + "/complete", "", "", 404, notFound, ""},
		bad{"completion of nothing", "POST /api/artifacts/art_" + strings.Repeat("0", 32) + "/complete", "", "", 404, notFound, ""},
		bad{"completion with a wish", "POST /api/artifacts/" + mine.artifact + "/complete?force=1", "", "", 400, parameter, "/force"})
	return all
}

func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("s%d", i)
	}
	return names
}

// routes has wrong headers, and paths that lead nowhere.
func routes() (all []bad) {
	good := goal(`"g"`)
	all = []bad{
		{"text", createRuns, "Content-Type: text/plain", good, 415, media, ""},
		{"no content type", createRuns, "Content-Type:", good, 415, media, ""},
		{"form", createRuns, "Content-Type: application/x-www-form-urlencoded", "plan=x", 415, media, ""},
		{"nonsense content type", createRuns, "Content-Type: ;;;", good, 415, media, ""},
		{"gzip", createRuns, "Content-Encoding: gzip", "\x1f\x8b\x08", 415, media, ""},
		{"identity", createRuns, "Content-Encoding: identity", good, 415, media, ""},
		{"long idempotency key", createRuns, "Idempotency-Key: " + strings.Repeat("k", 256), good, 400, parameter, "/Idempotency-Key"},
		{"quoted nothing", createRuns, `Idempotency-Key: ""`, good, 400, parameter, "/Idempotency-Key"},
		{"two idempotency keys", createRuns, "Idempotency-Key: a\nIdempotency-Key: b", good, 400, parameter, "/Idempotency-Key"},
		{"unprintable idempotency key", createRuns, "Idempotency-Key: a\tb", good, 400, parameter, "/Idempotency-Key"},
		{"unknown project", createRuns, "X-Project-Id: elsewhere", good, 404, notFound, ""},
		{"no project's name", createRuns, "X-Project-Id: ../default", good, 404, notFound, ""},
		{"correlation with spaces", createRuns, "X-Correlation-Id: a b", good, 400, parameter, "/X-Correlation-Id"},
		{"long correlation", createRuns, "X-Correlation-Id: " + strings.Repeat("c", 129), good, 400, parameter, "/X-Correlation-Id"},
		{"large headers", "GET /api/whoami", "X-Large: " + strings.Repeat("x", 17<<10), "", 431, large413, ""},
		{"long URL", "GET /api/runs?label=" + strings.Repeat("x", 9<<10), "", "", 414, large413, ""},
	}
	for _, path := range []string{
		"/", "/api", "/api/", "/api/run", "/api/runs/", "/api//runs", "/API/runs", "/api/runs/x/y/z", "/api%2Fruns", "/api%2fruns", "/metrics", "/metrics%2F..",
		"/api/runs/..%2f..%2fhealthz", "/api/runs/../whoami", "/api/%2e%2e/healthz", "/api/runs/%00", "/api/runs/%ff", "/debug/pprof/", "/.git/config", `/api\runs`,
	} {
		all = append(all, bad{"path " + path, "GET " + path, "", "", 404, notFound, ""})
	}
	return all
}

// parameters returns requests with bad parameters.
func parameters(mine things) (all []bad) {
	run, ck := "/api/runs/"+mine.run, "/api/runs/"+mine.run+"/checkpoints/"+mine.checkpoint
	for request, pointer := range map[string]string{
		"POST /api/runs?dry_run=1":                              "/dry_run",
		"GET /api/runs?limi=5":                                  "/limi",
		"GET /api/runs?limit=0":                                 "/limit",
		"GET /api/runs?limit=201":                               "/limit",
		"GET /api/runs?limit=x":                                 "/limit",
		"GET /api/runs?limit=":                                  "/limit",
		"GET /api/runs?limit=1&limit=2":                         "/limit",
		"GET /api/runs?limit=99999999999999999999":              "/limit",
		"GET /api/runs?status=done":                             "/status",
		"GET /api/runs?project=A%20B":                           "/project",
		"GET /api/runs?project=%00":                             "/project",
		"GET /api/runs?label=team":                              "/label",
		"GET /api/runs?label=a:%ff":                             "/label",
		"GET /api/gates?kind=robot":                             "/kind",
		"GET /api/gates?status=open":                            "/status",
		"GET " + run + "?expand=1":                              "/expand",
		"GET " + run + "/events?types=x":                        "/types",
		"GET " + run + "/events?until=end":                      "/until",
		"GET " + run + "/events?limit=501":                      "/limit",
		"GET /api/events?run=" + mine.step:                      "/run",
		"GET /api/steps/" + mine.step + "/logs?attempt=0":       "/attempt",
		"GET /api/steps/" + mine.step + "/logs?follow=2":        "/follow",
		"GET " + ck + "/file":                                   "/path",
		"GET " + ck + "/file?path=":                             "/path",
		"GET " + ck + "/file?path=%00":                          "/path",
		"GET " + ck + "/file?path=%ff":                          "/path",
		"GET /api/artifacts/" + mine.artifact + "?redirect=yes": "/redirect",
	} {
		body := ""
		if strings.HasPrefix(request, "POST") {
			body = goal(`"g"`)
		}
		all = append(all, bad{"query of " + request, request, "", body, 400, parameter, pointer})
	}
	for _, request := range []string{
		"GET /api/runs?cursor=x", "GET /api/runs?cursor=%25", "GET /api/runs?cursor=Z2F0ZXM6MA", "GET /api/gates?cursor=cnVuczow",
		"GET " + run + "/steps?cursor=LTE", "GET " + run + "/checkpoints?cursor=x", "GET " + run + "/events?after=x", "GET " + run + "/events?after=-1",
		"GET " + run + "/events?after=01", "GET /api/events?after=x", "GET /api/events?after=7",
	} {
		all = append(all, bad{"cursor of " + request, request, "", "", 400, cursor, ""})
	}
	for _, path := range []string{"..", "../file", "/etc/passwd", "a/../../file", "%2e%2e%2ffile", "..%2f..%2f..%2fetc%2fpasswd", "./file", "no-such", "file/below", "C:%5Cfile"} {
		all = append(all, bad{"file " + path, "GET " + ck + "/file?path=" + path, "", "", 404, notFound, ""},
			bad{"folder " + path, "GET " + ck + "/files?path=" + path, "", "", 404, notFound, ""})
	}
	slices.SortFunc(all, func(a, b bad) int { return strings.Compare(a.name, b.name) })
	return all
}

// ids returns requests with ids of another noun, of nobody, or none at all.
func ids(mine, theirs things) (all []bad) {
	hex := strings.Repeat("0", 31) + "1"
	for _, id := range []string{
		"x", "run_", "run_" + hex[1:], "run_" + hex + "0", "run_" + strings.ToUpper("a"+hex[1:]), "RUN_" + hex, "run_" + hex, hex,
		mine.step, mine.gate, mine.checkpoint, "run_" + uuidOf(mine.step), "run_" + uuidOf(theirs.run), "run-" + hex, mine.run + "%20", "%20" + mine.run, mine.run + "%00",
	} {
		for _, rest := range []string{"", "/steps", "/events", "/checkpoints", "/artifacts"} {
			all = append(all, bad{"run " + id + rest, "GET /api/runs/" + id + rest, "", "", 404, notFound, ""})
		}
	}
	for _, path := range []string{
		"/api/steps/" + mine.run, "/api/steps/" + mine.run + "/logs", "/api/gates/" + mine.step, "/api/artifacts/" + mine.checkpoint,
		"/api/runs/" + mine.run + "/checkpoints/" + mine.run, "/api/runs/" + mine.run + "/checkpoints/" + theirs.checkpoint,
		"/api/runs/" + mine.run + "/checkpoints/" + theirs.checkpoint + "/files", "/api/runs/" + mine.run + "/checkpoints/ckpt_" + hex + "/file?path=file",
	} {
		all = append(all, bad{"path " + path, "GET " + path, "", "", 404, notFound, ""})
	}
	return append(all, bad{"key of another noun", "DELETE /api/api-keys/" + mine.run, "", "", 404, notFound, ""})
}

// states returns requests that come too late, or for what cannot be.
func states(mine things) []bad {
	run, gate, pending := "/api/runs/"+mine.run, "/api/gates/"+mine.gate, "/api/gates/"+mine.pending
	return []bad{
		{"cancel of what has ended", "POST " + run + "/cancel", "", "", 409, transition, ""},
		{"cancel of an old version", "POST " + run + "/cancel", `If-Match: "v1"`, "{}", 412, stale, ""},
		{"cancel of a coming version", "POST " + run + "/cancel", `If-Match: "v99999"`, "{}", 412, stale, ""},
		{"cancel with a weak tag", "POST " + run + "/cancel", `If-Match: W/"v1"`, "{}", 400, parameter, "/If-Match"},
		{"cancel with nonsense", "POST " + run + "/cancel", "If-Match: v1", "{}", 400, parameter, "/If-Match"},
		{"cancel with two tags", "POST " + run + "/cancel", `If-Match: "v1", "v2"`, "{}", 400, parameter, "/If-Match"},
		{"cancel for a long reason", "POST " + run + "/cancel", "", `{"reason":"` + strings.Repeat("r", 2049) + `"}`, 422, field, "/reason"},
		{"cancel for a number", "POST " + run + "/cancel", "", `{"reason":7}`, 400, malformed, "/reason"},
		{"cancel by somebody else", "POST " + run + "/cancel", "", `{"by":"me"}`, 400, unknown, "/by"},
		{"approve a command gate", "POST " + gate + "/approve", "", "{}", 409, transition, ""},
		{"reject a command gate", "POST " + gate + "/reject", "", `{"reason":"no"}`, 409, transition, ""},
		{"approve for somebody else", "POST " + pending + "/approve", "", `{"decided_by":"boss"}`, 400, unknown, "/decided_by"},
		{"approve an old version", "POST " + pending + "/approve", `If-Match: "v7"`, "", 412, stale, ""},
		{"reject without a word", "POST " + pending + "/reject", "", "{}", 422, noReason, "/reason"},
		{"reject without a body", "POST " + pending + "/reject", "", "", 422, noReason, "/reason"},
		{"waive for nothing", "POST " + pending + "/waive", "", `{"reason":" \n"}`, 422, noReason, "/reason"},
		{"a key for nobody", "POST /api/api-keys", "", `{"name":"x"}`, 422, field, "/role"},
		{"a key of all kinds", "POST /api/api-keys", "", `{"name":"x","role":"admin","scopes":["runs:read"]}`, 422, field, "/role"},
		{"a key of no role", "POST /api/api-keys", "", `{"name":"x","role":"root"}`, 422, field, "/role"},
		{"a key that is over", "POST /api/api-keys", "", `{"name":"x","role":"admin","expires_at":"2001-01-01T00:00:00Z"}`, 422, field, "/expires_at"},
		{"a key until someday", "POST /api/api-keys", "", `{"name":"x","role":"admin","expires_at":"someday"}`, 400, malformed, "/expires_at"},
		{"a key without a name", "POST /api/api-keys", "", `{"name":"","role":"admin"}`, 422, field, "/name"},
		{"a key whose name turns text", "POST /api/api-keys", "", `{"name":"a\u202eb","role":"admin"}`, 422, field, "/name"},
	}
}

// keyed returns requests without the right key.
func keyed(keys map[string]string, viewer, service string) (all []bad) {
	all = []bad{
		{"no key", "GET /api/runs", "Authorization:", "", 401, anonymous, ""},
		{"no key, no such run", "GET /api/runs/run_x", "Authorization:", "", 401, anonymous, ""},
		{"no key, bad body", createRuns, "Authorization:", "{", 401, anonymous, ""},
		{"Basic", "GET /api/runs", "Authorization: Basic YTpi", "", 401, anonymous, ""},
		{"a viewer creates", createRuns, "Authorization: Bearer " + viewer, goal(`"g"`), 403, forbidden, ""},
		{"a viewer decides", "POST /api/gates/gate_x/approve", "Authorization: Bearer " + viewer, "{}", 403, forbidden, ""},
		{"a viewer makes keys", "POST /api/api-keys", "Authorization: Bearer " + viewer, "{}", 403, forbidden, ""},
		{"a service beyond its scopes", createRuns, "Authorization: Bearer " + service, goal(`"g"`), 403, forbidden, ""},
		{"a service decides", "POST /api/gates/gate_x/waive", "Authorization: Bearer " + service, "{}", 403, forbidden, ""},
	}
	for name, key := range keys {
		all = append(all, bad{"a key that is " + name, "GET /api/runs", "Authorization: Bearer " + key, "", 401, anonymous, ""})
	}
	return all
}
