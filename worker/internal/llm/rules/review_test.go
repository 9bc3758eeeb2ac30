package rules

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/reviewer"
)

// numbered returns lines as they are shown when all of them are added.
func numbered(code string) string {
	lines := strings.Split(strings.TrimSuffix(code, "\n"), "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "@@ -0,0 +1,%d @@\n", len(lines))
	for i, l := range lines {
		fmt.Fprintf(&b, "R%d +%s\n", i+1, l)
	}
	return b.String()
}

func ask(t *testing.T, parts ...llm.Part) []reviewer.Answered {
	t.Helper()
	resp, err := New().Complete(t.Context(), llm.Request{Schema: reviewer.Schema, Parts: parts})
	if err != nil || resp.Stop != llm.End || resp.Usage != (llm.Usage{}) {
		t.Fatalf("Complete() = %+v, %v, want an answer without tokens", resp, err)
	}
	if err := reviewer.Schema.Check(resp.Text); err != nil {
		t.Fatalf("the answer is not of the schema: %v\n%s", err, resp.Text)
	}
	var a reviewer.Answer
	if err := json.Unmarshal([]byte(resp.Text), &a); err != nil {
		t.Fatal(err)
	}
	return a.Findings
}

// A line with § is what the rule is about; without one, no rule may say anything. Another
// file than the language's usual one is named first.
var examples = map[string][]string{
	"go/unchecked-error": {
		"func f(b []byte) (v T) {\n\tjson.Unmarshal(b, &v)§\n\treturn v\n}", "\tif x {\n\t\tos.Rename(a, b)§\n\t}\n}", "\t\tjson.NewDecoder(r.Body).Decode(&in)§",
		"func f() {\n\t_ = os.Rename(a, b)\n}", "\tjson.Unmarshal(b, &v) // the schema has seen to it", "\tfmt.Println(json.Unmarshal(b, &v))", "\t// json.Unmarshal(b, &v)",
		"\ts := `\njson.Unmarshal(b, &v)\n`", "\t\tjson.Unmarshal(b, &v), nil,", "json.Unmarshal(b, &v)\n*/\n\tx := 1", "json.Unmarshal(b, &v)\n`\n\tx := 1",
	},
	"go/discarded-error": {
		"\tn, _ := strconv.Atoi(r.FormValue(\"n\"))§\n\tuse(n)", "\tf, _ = os.Open(name)§", "\tn, _ := strconv.Atoi(m[1])", "\tn, _ := strconv.Atoi(\"12\")", "\t_, err := strconv.Atoi(s)",
		"\t// The form has seen to it.\n\tn, _ := strconv.Atoi(s)", "\tv, _ := cache.Load(key)",
	},
	"go/defer-in-loop": {
		"func f(names []string) {\n\tfor _, n := range names {\n\t\tf, err := os.Open(n)\n\t\tif err != nil {\n\t\t\treturn\n\t\t}\n\t\tdefer f.Close()§\n\t\tread(f)\n\t}\n}",
		"func f() {\n\tfor range 3 {\n\t\tfunc() {\n\t\t\tmu.Lock()\n\t\t\tdefer mu.Unlock()\n\t\t}()\n\t}\n}",
		"func f() {\n\tfor i := range conns {\n\t\tc := dial()\n\t\tdefer c.Close()\n\t\tconns[i] = c\n\t}\n}",
		"func f() {\n\tfor _, x := range xs {\n\t\tmu.Lock()\n\t\tdefer mu.Unlock()\n\t\treturn\n\t}\n}",
	},
	"go/defer-before-check": {
		"\tresp, err := client.Fetch(req)\n\tdefer resp.Body.Close()§\n\tif err != nil {\n\t\treturn err\n\t}",
		"\tf, err := open(n)\n\tif err != nil {\n\t\treturn err\n\t}\n\tdefer f.Close()\n\tif ok {\n\t}",
	},
	"go/body-not-closed": {
		"func f(r *http.Request) error {\n\tresp, err := client.Do(r)§\n\tif err != nil {\n\t\treturn err\n\t}\n\treturn json.NewDecoder(resp.Body).Decode(&v)\n}",
		"func f(r *http.Request) error {\n\tresp, err := client.Do(r)\n\tif err != nil {\n\t\treturn err\n\t}\n\tdefer resp.Body.Close()\n\treturn nil\n}",
		"func f(r *http.Request) (*http.Response, error) {\n\tresp, err := client.Do(r)\n\treturn resp, err\n}", "\tresp, err := client.Do(r)\n\tif err != nil {\n\t\treturn err\n\t}",
	},
	"go/rows-err": {
		"func f() error {\n\tdefer rows.Close()\n\tfor rows.Next() {§\n\t\tif err := rows.Scan(&x); err != nil {\n\t\t\treturn err\n\t\t}\n\t}\n\treturn nil\n}",
		"func f() error {\n\tfor rows.Next() {\n\t\tif err := rows.Scan(&x); err != nil {\n\t\t\treturn err\n\t\t}\n\t}\n\treturn rows.Err()\n}", "\tfor rows.Next() {\n\t\terr = rows.Scan(&x)\n\t}",
	},
	"go/http-no-timeout":   {"\tresp, err := http.Get(url)§\n\tif err != nil {\n\t\treturn err\n\t}", "\tc := &http.Client{}§", "\tc := &http.Client{Timeout: limit}"},
	"go/server-no-timeout": {"\terr := http.ListenAndServe(addr, h)§", "\terr := server.ListenAndServe()"},
	"go/shell-injection": {
		"\tcmd := exec.Command(\"sh\", \"-c\", \"ls \"+dir)§", "\tout, err := exec.CommandContext(ctx, \"bash\", \"-c\", fmt.Sprintf(\"ls %s\", dir)).Output()§",
		"\tcmd := exec.Command(\"sh\", \"-c\", \"ls \"+DIR)", "\tcmd := exec.Command(\"sh\", \"-c\", script)", "\tcmd := exec.Command(\"ls\", \"-c\", \"a\"+dir)",
	},
	"go/sql-injection": {
		"\trows, err := db.Query(\"SELECT a FROM t WHERE name = '\" + name + \"'\")§", "\tq := fmt.Sprintf(\"DELETE FROM t WHERE id = %s\", id)§", "\tq := fmt.Sprintf(\"UPDATE t SET n = '%v' WHERE id = $1\", n)§",
		"\tq := fmt.Sprintf(\"SELECT a FROM %s WHERE id = $1\", table)", "\tq := fmt.Sprintf(\"DELETE FROM t WHERE id = %d\", id)", "\tq := \"SELECT a FROM t WHERE \" + cond",
		"\tlog(\"select a thing from b = \" + strconv.Itoa(x))", "\tq := fmt.Sprintf(\"SELECT a FROM t WHERE x = %s\", pq.QuoteLiteral(x))",
	},
	"go/tls-unverified":     {"\tc := &tls.Config{InsecureSkipVerify: true}§", "\tcfg.InsecureSkipVerify = true§", "\tc := &tls.Config{InsecureSkipVerify: insecure}"},
	"go/world-writable":     {"\tif err := os.MkdirAll(dir, 0777); err != nil {§\n\t}", "\terr := os.WriteFile(p, b, 0o666)§", "\terr := os.MkdirAll(dir, 0o755)", "\terr := os.Chmod(dir, 0o1777)"},
	"go/result-unused":      {"\tif x {\n\t\tfmt.Errorf(\"no %s\", x)§\n\t}", "\tstrings.TrimSpace(s)§", "\ts = strings.TrimSpace(s)", "\t\t{fmt.Errorf(\"a\"), 1},"},
	"go/lost-cancel":        {"\tctx, _ := context.WithTimeout(ctx, time.Second)§", "\tctx, cancel := context.WithTimeout(ctx, time.Second)\n\tdefer cancel()"},
	"go/sleep-unit":         {"\ttime.Sleep(500)§", "\ttime.Sleep(0)", "\ttime.Sleep(5 * time.Second)"},
	"go/nil-check":          {"\tif p == nil && p.Name == \"\" {§\n\t}", "\tif p != nil || p.ready {§\n\t}", "\tif p != nil && p.Name == \"\" {\n\t}", "\tif p == nil || p.Name == \"\" {\n\t}", "\tif p == nil && p.Empty() {\n\t}"},
	"go/nil-error":          {"\tv, err := f()\n\tif err == nil {\n\t\treturn nil, err§\n\t}", "\tv, err := f()\n\tif err == nil {\n\t\treturn v, err\n\t}", "\tv, err := f()\n\tif err != nil {\n\t\treturn nil, err\n\t}"},
	"go/lost-error":         {"\terr := a()§\n\terr = b()\n\tif err != nil {\n\t\treturn err\n\t}", "\terr := a()\n\terr = errors.Join(err, b())", "\terr := a()\n\tif err == nil {\n\t\terr = b()\n\t}"},
	"go/sentinel-compare":   {"\tif err == context.Canceled {§\n\t}", "\tswitch {\n\tcase err != store.ErrGone:§\n\t}", "\t\tcode = 1\n\tcase err == context.Canceled:§\n\t\tcode = 2", "\tif err == io.EOF {\n\t}", "\tif errors.Is(err, context.Canceled) {\n\t}"},
	"go/missing-return":     {"func f(w http.ResponseWriter, r *http.Request) {\n\tif bad {\n\t\thttp.Error(w, \"bad\", 400)§\n\t}\n\twrite(w)\n}", "func f(w http.ResponseWriter, r *http.Request) {\n\tif bad {\n\t\thttp.Error(w, \"bad\", 400)\n\t\treturn\n\t}\n\twrite(w)\n}", "func f(w http.ResponseWriter, r *http.Request) {\n\tif bad {\n\t\thttp.Error(w, \"bad\", 400)\n\t}\n\tcount()\n}"},
	"go/nil-map":            {"func f() {\n\tvar m map[string]int\n\tm[\"a\"] = 1§\n}", "func f() {\n\tvar m map[string]int\n\tm = load()\n\tm[\"a\"] = 1\n}"},
	"go/wait-group-race":    {"\tgo func() {\n\t\twg.Add(1)§\n\t\tdefer wg.Done()\n\t}()", "\twg.Add(1)\n\tgo func() {\n\t\tdefer wg.Done()\n\t}()"},
	"go/double-lock":        {"\tmu.Lock()\n\tdefer mu.Lock()§", "\tmu.Lock()\n\tdefer mu.Unlock()"},
	"go/fatal-in-goroutine": {"a_test.go: func TestA(t *testing.T) {\n\tgo func() {\n\t\tt.Fatal(\"x\")§\n\t}()\n}", "a_test.go: func TestA(t *testing.T) {\n\tt.Run(\"x\", func(t *testing.T) {\n\t\tt.Fatal(\"x\")\n\t})\n}"},

	"secret/hard-coded": {
		"const apiKey = \"q9f83c4n4ryhfz71\"§", "cfg.py: PASSWORD = 'tr0ub4dor-c4n4ry9x'§", "a.ts: const config = { clientSecret: 'q9f83c4n4ryhfz71' };§", "\tpassword := \"[redacted]\"§",
		"\tpassword := \"change-me-please\"", "\ttoken := os.Getenv(\"TOKEN_OF_API_1234\")", "x_test.go: const apiKey = \"q9f83c4n4ryhfz71\"", "\tpassword := \"\"", "// apiKey = \"q9f83c4n4ryhfz71\"",
	},

	"js/eval":               {"const v = eval('(' + text + ')');§", "const f = new Function('a', body);§", "re.eval(x);", "const v = eval('1 + 1');"},
	"js/inner-html":         {"el.innerHTML = name;§", "el.innerHTML = `<b>${name}</b>`;§", "el.innerHTML = '';", "el.innerHTML = escapeHtml(name);", "el.textContent = name;", "if (el.innerHTML === name) {}", "// el.innerHTML = name;"},
	"js/shell-injection":    {"exec('ls ' + dir, done);§", "cp.execSync(`ls ${dir}`);§", "exec('ls', done);", "re.exec('a' + b);", "exec(`ls ${shellQuote(dir)}`);", "function exec(a) {}"},
	"js/sql-injection":      {"db.query(`SELECT a FROM t WHERE id = ${id}`);§", "db.query(\"DELETE FROM t WHERE name = '\" + name + \"'\");§", "db.query(`SELECT a FROM ${table} WHERE id = $1`, [id]);", "sql`SELECT a FROM t WHERE id = ${id}`;", "db.query(`SELECT a FROM t WHERE id = ${Number(id)}`);"},
	"js/async-for-each":     {"items.forEach(async (i) => {§\n  await save(i);\n});", "items.forEach((i) => save(i));", "await Promise.all(items.map(async (i) => save(i)));"},
	"js/async-executor":     {"return new Promise(async (resolve) => {§\n});", "return new Promise<void>(async (resolve) => {§\n});", "return new Promise((resolve) => {\n});"},
	"js/floating-promise":   {"async function f() {\n  fetch(url);§\n}", "async function f() {\n  await fetch(url);\n}", "fetch(url).then(show);", "const p = fetch(url);", "void fetch(url);"},
	"js/empty-catch":        {"try {\n  go();\n} catch (e) {§\n}", "try {\n  go();\n} catch (e) {\n  // it may be gone\n}", "p.catch(() => {});"},
	"js/buffer-constructor": {"const b = new Buffer(n);§", "const b = Buffer.from(n);", "const s = 'new Buffer(n)';", "const r = /new Buffer(n)/;"},
	"js/tls-unverified":     {"const agent = new Agent({ rejectUnauthorized: false });§", "process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';§", "const agent = new Agent({ rejectUnauthorized: strict });"},
	"js/weak-random":        {"const token = Math.random().toString(36);§", "const x = Math.random();"},
	"js/nan-compare":        {"if (x === NaN) {}§", "if (Number.isNaN(x)) {}"},
	"js/assigned-condition": {"if (state = 'open') {}§", "if (state === 'open') {}", "if ((m = re.exec(s))) {}"},
	"js/typeof-text":        {"if (typeof x === 'undefind') {}§", "if (typeof x === 'undefined') {}"},

	"py/mutable-default":     {"def f(a, b=[]):§\n    pass", "def f(a,\n      b={}):§\n    pass", "def f(a, b=None):\n    pass", "def f(a, _cache={}):\n    pass", "f(a, b=[])"},
	"py/bare-except":         {"try:\n    go()\nexcept:§\n    pass", "try:\n    go()\nexcept:\n    undo()\n    raise", "try:\n    go()\nexcept ValueError:\n    pass"},
	"py/swallowed-exception": {"try:\n    go()\nexcept Exception:§\n    pass", "try:\n    go()\nexcept Exception:\n    pass  # the cache is only faster", "try:\n    go()\nexcept Exception as e:\n    log(e)"},
	"py/yaml-load":           {"data = yaml.load(f)§", "data = yaml.load(f, Loader=yaml.Loader)§", "data = yaml.load(f, Loader=yaml.SafeLoader)", "data = yaml.safe_load(f)"},
	"py/shell-injection":     {"os.system('rm ' + name)§", "subprocess.run(f'ls {name}', shell=True)§", "os.popen('ls %s' % name)§", "subprocess.run(['ls', name])", "os.system('ls')", "os.system('ls ' + shlex.quote(name))"},
	"py/sql-injection":       {"cur.execute(f\"SELECT a FROM t WHERE id = {id}\")§", "cur.execute(\"SELECT a FROM t WHERE id = %s\" % id)§", "cur.execute(\"SELECT a FROM t WHERE id = '{}'\".format(id))§", "cur.execute(\"SELECT a FROM t WHERE id = %s\", (id,))", "q = f\"SELECT a FROM {table}\""},
	"py/literal-identity":    {"if x is 'a':§\n    pass", "if x is not 0:§\n    pass", "if x is None:\n    pass"},
	"py/not-implemented":     {"raise NotImplemented§", "raise NotImplementedError", "return NotImplemented"},
	"py/file-not-closed":     {"text = open(name).read()§", "data = json.load(open(name))§", "f = open(name)§\ntext = f.read()\nf.close()", "with open(name) as f:\n    text = f.read()", "f = open(name)\ntry:\n    g(f)\nfinally:\n    f.close()", "zf.open(name).read()"},
	"py/mktemp":              {"name = tempfile.mktemp()§", "name = tempfile.mkstemp()"},
	"py/request-no-timeout":  {"r = requests.get(url)§", "r = requests.get(url, timeout=5)", "r = requests.get(url, **options)", "r = requests.get(", "text = \"\"\"\nr = requests.get(url)\n\"\"\"", "    >>> r = requests.get(url)", "r = requests.get(url)\n\"\"\"\nx = 1"},
	"py/tls-unverified":      {"r = requests.get(url, verify=False, timeout=5)§", "r = requests.get(url, verify=ca, timeout=5)", "x = check(verify=False)"},
	"py/eval":                {"v = eval(text)§", "v = ast.literal_eval(text)", "v = eval('1')", "def eval(text):\n    pass"},
	"py/assert-tuple":        {"assert (x > 0, 'positive')§", "assert x > 0, 'positive'"},
	"py/assert-validation":   {"def load(path):\n    assert isinstance(path, str)§\n    return path", "def _load(path):\n    assert isinstance(path, str)\n    return path", "test_a.py: def test_load(path):\n    assert isinstance(path, str)"},
	"py/debug-server":        {"app.run(debug=True)§", "app.run(debug=settings.DEBUG)"},

	"sql/not-null-without-default": {"ALTER TABLE t ADD COLUMN n integer NOT NULL;§", "alter table t\n  add a text,\n  add b text not null;§", "ALTER TABLE t ADD COLUMN n integer NOT NULL DEFAULT 0;", "ALTER TABLE t ADD CONSTRAINT c CHECK (a IS NOT NULL);", "CREATE TABLE t (a text NOT NULL);\nALTER TABLE t ADD b text NOT NULL;", "-- ALTER TABLE t ADD COLUMN n integer NOT NULL;"},
	"sql/no-where":                 {"DELETE FROM sessions;§", "UPDATE t SET a = 1;§", "DELETE FROM t WHERE a = 1;", "ALTER TABLE t ADD b int;\nUPDATE t SET b = a;", "UPDATE t SET a = 1\n", "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 1;"},
	"sql/drop-column":              {"ALTER TABLE t DROP COLUMN a;§", "1.down.sql: ALTER TABLE t DROP COLUMN a;"},
	"sql/drop-table":               {"DROP TABLE t;§", "CREATE TABLE t2 (a int);\nDROP TABLE t;§", "DROP TABLE IF EXISTS t;\nCREATE TABLE t (a int);", "DROP TABLE t;\nALTER TABLE t2 RENAME TO t;"},
	"sql/grant-public":             {"GRANT ALL ON t TO PUBLIC;§", "GRANT SELECT ON t TO PUBLIC;"},
	"sql/null-compare":             {"SELECT a FROM t WHERE b = NULL;§", "UPDATE t SET a = NULL WHERE b = 1;", "SELECT a FROM t WHERE b IS NULL;"},
	"sql/definer-search-path":      {"CREATE FUNCTION f() RETURNS void LANGUAGE sql SECURITY DEFINER AS $$ SELECT 1; $$;§", "CREATE FUNCTION f() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = '' AS $$ SELECT 1; $$;"},
	"sql/dynamic":                  {"EXECUTE 'DELETE FROM t WHERE id = ' || id;§", "EXECUTE 'DELETE FROM t WHERE id = $1' USING id;", "EXECUTE 'DELETE FROM t WHERE id = ' || quote_literal(id);"},
}

func TestReviewRules(t *testing.T) {
	t.Parallel()
	for _, l := range languages {
		for _, r := range slices.Concat(l.rules, secrets) {
			if len(examples[r.id]) < 2 {
				t.Errorf("rule %s has %d examples, want one that it finds and one that it does not", r.id, len(examples[r.id]))
			}
			if len(r.title) > 120 || len(r.why) > 1000 || r.confidence <= 0 || r.confidence > 1 {
				t.Errorf("rule %s does not fit the schema", r.id)
			}
		}
	}
	files := map[string]string{"go": "a.go", "secret": "a.go", "js": "a.ts", "py": "a.py", "sql": "001_a.sql"}
	for id, list := range examples {
		for _, code := range list {
			family, _, _ := strings.Cut(id, "/")
			file := files[family]
			if name, rest, ok := strings.Cut(code, ": "); ok && strings.Contains(name, ".") && !strings.ContainsAny(name, " \n\t(") {
				file, code = name, rest
			}
			want, got := "", ""
			for i, l := range strings.Split(code, "\n") {
				if strings.Contains(l, "§") {
					want += fmt.Sprintf("%s:%d ", id, i+1)
				}
			}
			for _, f := range ask(t, llm.Part{Name: file, Text: numbered(strings.ReplaceAll(code, "§", "")), Untrusted: true}) {
				got += fmt.Sprintf("%s:%d ", *f.RuleID, f.Line)
			}
			if got != want {
				t.Errorf("%s: findings = %q, want %q, of\n%s", file, got, want, code)
			}
		}
	}
}

var update = flag.Bool("update", false, "write README.md anew")

// TestReadme holds the list of rules to the rules.
func TestReadme(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# The rules

What the reviewer "rules" looks for, in added lines alone. A rule's name is what a dismissal of scope rule is about.
`)
	for _, part := range []struct {
		title string
		rules []rule
	}{
		{"Go", golang.rules}, {"TypeScript and JavaScript", script.rules}, {"Python", python.rules}, {"SQL", sql.rules}, {"All of them", secrets},
	} {
		fmt.Fprintf(&b, "\n## %s\n| rule | finding | category | severity | confidence |\n|---|---|---|---|---|\n", part.title)
		for _, r := range part.rules {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %.2f |\n", r.id, r.title, r.category, r.severity, r.confidence)
		}
	}
	if *update {
		if err := os.WriteFile("README.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile("README.md"); err != nil || string(got) != b.String() {
		t.Errorf("README.md lists other rules than there are (%v): go test -run TestReadme -update writes it anew", err)
	}
}

func TestReviewOfAddedLinesAlone(t *testing.T) {
	t.Parallel()
	text := "@@ -7,4 +7,3 @@ func f() {\nR7  \tos.Rename(a, b)\nL8 -\tos.Rename(c, d)\nL9 -\tos.Rename(c, d)\nR8 +\tos.Rename(e, f)\nR9  }\n"
	got := ask(t,
		llm.Part{Name: "trusted.go", Text: "os.Rename(a, b)"}, llm.Part{Text: "Review these parts."},
		llm.Part{Name: "b.txt", Text: numbered("\tos.Rename(a, b)"), Untrusted: true}, llm.Part{Name: "b.gen.go", Text: numbered("\tos.Rename(a, b)"), Untrusted: true},
		llm.Part{Name: "a.go", Text: text, Untrusted: true})
	if len(got) != 1 || got[0].Path != "a.go" || got[0].Line != 8 || got[0].Side != "RIGHT" || got[0].Quote != "\tos.Rename(e, f)" || *got[0].RuleID != "go/unchecked-error" || len(got[0].Evidence) != 1 {
		t.Errorf("findings = %+v, want the one of line 8", got)
	}
	_, err := New().Complete(t.Context(), llm.Request{Schema: reviewer.Schema, Parts: []llm.Part{{Name: "a.go", Text: "+os.Rename(a, b)", Untrusted: true}}})
	if !errors.Is(err, fault.Invalid) {
		t.Errorf("Complete(lines without numbers) = %v, want invalid", err)
	}
}

// Of more findings than an answer may have, the worst are kept, in their order.
func TestReviewKeepsTheWorst(t *testing.T) {
	t.Parallel()
	code := strings.Repeat("\tos.Rename(a, b)\n", 40) + "\tcmd := exec.Command(\"sh\", \"-c\", \"ls \"+dir)\n"
	part := llm.Part{Name: "a.go", Text: numbered(code), Untrusted: true}
	got, again := ask(t, part), ask(t, part)
	if len(got) != reviewer.MaxAnswered || *got[len(got)-1].RuleID != "go/shell-injection" || got[0].Line != 1 || got[28].Line != 29 {
		t.Fatalf("%d findings, the last %+v, want %d with the shell among them", len(got), got[len(got)-1], reviewer.MaxAnswered)
	}
	for i := range got {
		if got[i].Line != again[i].Line || *got[i].RuleID != *again[i].RuleID {
			t.Errorf("finding %d differs the second time", i)
		}
	}
}

func TestReviewSuggests(t *testing.T) {
	t.Parallel()
	got := ask(t, llm.Part{Name: "a.py", Text: numbered("    raise NotImplemented  # yet"), Untrusted: true})
	if len(got) != 1 || got[0].Suggestion == nil || got[0].Suggestion.Replacement != "    raise NotImplementedError  # yet" {
		t.Errorf("findings = %+v, want one with the line as it should be", got)
	}
}

// FuzzReview holds the rules to answers of the schema, whatever they are shown.
func FuzzReview(f *testing.F) {
	names := []string{"a.go", "a.ts", "a.py", "1.sql"}
	for id, list := range examples {
		family, _, _ := strings.Cut(id, "/")
		if i := slices.Index([]string{"go", "js", "py", "sql"}, family); i >= 0 {
			for _, code := range list {
				f.Add(i, code)
			}
		}
	}
	f.Fuzz(func(t *testing.T, file int, code string) {
		code = strings.ReplaceAll(strings.ToValidUTF8(code, "?"), "\r", "")
		ask(t, llm.Part{Name: names[uint(file)%4], Text: numbered(code), Untrusted: true})
	})
}
