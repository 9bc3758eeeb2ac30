package integration_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	s3client "github.com/minio/minio-go/v7"

	"nofx.dev/gateway/api"
	"nofx.dev/integration/harness"
)

// piece is how many bytes of a secret in a row count as a leak.
const piece = 12

// printsKeys prints a private key in the ways that programs do, and a token that the
// administrator set. "$1" is where the key lies.
const printsKeys = `
	key=$TMPDIR/key; printf %s "$KEY_BASE64" | base64 -d > $key
	for i in 1 2 3 4 5 6; do cat $key; done
	sed 's/$/\r/' $key; sed 's/^/api_1  | /' $key
	awk 'BEGIN { printf "{\"key\":\"" } { printf "%s\\n", $0 } END { print "\"}" }' $key
	printf %s "${CANARY:0:17}"; printf '%s\n' "${CANARY:17}"
`

// TestSecretsStayOut has steps show secrets wherever a step can show anything, at the
// borders where text is cut, and then searches the whole database, every object and
// all logs of the processes for a piece of them.
func TestSecretsStayOut(t *testing.T) {
	t.Parallel()
	canary := rand.Text() + rand.Text()
	der := make([]byte, 2349) // as large as RSA 4096
	_, _ = rand.Read(der)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Said", "it is "+canary)
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusTeapot)
		}
		fmt.Fprintf(w, "%s %s%s", canary, strings.Repeat("-", 48<<10-2*len(canary)), strings.Repeat(canary+" ", 50))
	}))
	t.Cleanup(service.Close)
	s := up(t, harness.Config{Workers: 1, WorkerEnv: map[string]string{
		"NOFX_STEP_ENV": strings.Join([]string{
			"PATH=" + os.Getenv("PATH"), "CANARY=" + canary, "KEY_BASE64=" + base64.StdEncoding.EncodeToString(key), "CI=true", "N=1"}, "\n"),
		"NOFX_EGRESS_ALLOW": strings.TrimPrefix(service.URL, "http://"),
	}})
	junit := `mkdir -p out; printf '<testsuite><testcase name="%s"><failure message="%s"/></testcase><testcase name="b"><failure>%s</failure></testcase></testsuite>' \
		"$(printf %0250d 7)$CANARY" "$(printf %0500d 7)$CANARY" "$(printf %01014d 7)$CANARY" > out/r; exit 1`
	root := `printf '<%s/>' "$(printf 'a%.0s' {1..240})$CANARY" > r; exit 1`
	gateWith := func(name, command string, report any) step {
		return step{Name: name, Tool: "gate:" + name, Inputs: map[string]any{"command": command, "report": report}}
	}
	ids := map[api.RunStatus][]string{}
	for _, tt := range []struct {
		status api.RunStatus
		step   step
	}{
		{api.RunStatusSucceeded, bash("log", printsKeys+`printf %065530d 7; echo "$CANARY"; printf %065530d 7; cat $key; echo true 1`)},
		{api.RunStatusSucceeded, bash("outputs", printsKeys+`
			echo "value=$CANARY" >> $NOFX_OUTPUT; echo "DB_PASSWORD=two words $(printf %.16s "$KEY_BASE64")" >> $NOFX_OUTPUT
			echo "pem=$(awk '{ printf "%s\\n", $0 }' $key)" >> $NOFX_OUTPUT; echo "ci=true" >> $NOFX_OUTPUT`)},
		{api.RunStatusFailed, gate("tail", printsKeys+"exit 1")},
		{api.RunStatusFailed, gate("border", `printf %08192d 7; for i in $(seq 12); do printf 'a long line of output, '; done; echo "$CANARY"; printf %08170d 7; exit 1`)},
		{api.RunStatusFailed, gateWith("items", junit, map[string]any{"format": "junit", "path": "out/r"})},
		{api.RunStatusFailed, gateWith("reason", root, map[string]any{"format": "junit", "path": "r"})},
		{api.RunStatusFailed, gate("missing", `"./$CANARY" --version`)},
		{api.RunStatusSucceeded, step{Name: "http", Tool: "http", Inputs: map[string]any{"url": service.URL + "/", "method": "POST"}}},
		{api.RunStatusFailed, step{Name: "refused", Tool: "http", Inputs: map[string]any{"url": service.URL + "/refused"}}},
	} {
		body := map[string]any{"plan": map[string]any{"goal": "keep it secret", "steps": []step{tt.step},
			"policy": map[string]any{"env_allowed": []string{"CANARY", "KEY_BASE64", "CI", "N"}}}}
		id := decode[api.CreatedRun](t, s.do(t, http.StatusCreated, http.MethodPost, "/api/runs", body)).Run.ID
		ids[tt.status] = append(ids[tt.status], id)
	}
	for status, all := range ids {
		for _, id := range all {
			d := s.await(t, id, status)
			switch d.Steps[0].Name {
			case "outputs":
				var outputs struct{ Outputs map[string]string }
				if err := json.Unmarshal(d.Steps[0].Outputs, &outputs); err != nil || outputs.Outputs["value"] != "[redacted]" || outputs.Outputs["ci"] != "true" {
					t.Errorf("outputs = %s, %v, want the value masked and true left alone", d.Steps[0].Outputs, err)
				}
			case "log":
				if log := s.log(t, d.Steps[0].ID); !strings.HasSuffix(log, "true 1\n") {
					t.Errorf("log ends in %q, want values too short for a secret left alone", log[max(0, len(log)-40):])
				}
			}
		}
	}

	var pieces [][]byte
	for _, secret := range append(strings.Split(string(key), "\n")[1:37], canary, base64.StdEncoding.EncodeToString(key)[:400]) {
		for i := 0; i+piece <= len(secret); i++ {
			pieces = append(pieces, []byte(secret[i:i+piece]))
		}
	}
	found := newFinder(pieces)
	searched := 0
	for _, table := range list[string](t, s, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('nofx', 'river')`) {
		for _, row := range list[string](t, s, `SELECT to_jsonb(t)::text FROM `+table+` t`) {
			searched++
			if leak := found.in([]byte(row)); leak != "" {
				t.Errorf("a row of %s shows %q: %.300s", table, leak, row)
			}
		}
	}
	if searched < 20 {
		t.Errorf("%d rows were searched, want those of %d runs", searched, len(ids))
	}
	client := s.storage.open(t)
	kinds := map[string]int{}
	for object := range s.storage.keys(t) {
		o, err := client.GetObject(t.Context(), s.storage.s3.Bucket, object, s3client.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(o)
		if err != nil {
			t.Fatalf("read %s: %v", object, err)
		}
		content = plain(t, content)
		kinds[strings.Split(object, "/")[1]]++
		if leak := found.in(content); leak != "" {
			t.Errorf("object %s shows %q", object, leak)
		}
	}
	t.Logf("searched %d rows and objects %v", searched, kinds)
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "logs", "*.log"))
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if leak := found.in(content); err != nil || leak != "" {
			t.Errorf("%s shows %q, %v", filepath.Base(path), leak, err)
		}
	}
}

// finder looks for any of many texts of one length.
type finder map[[piece]byte]bool

func newFinder(pieces [][]byte) finder {
	f := finder{}
	for _, p := range pieces {
		f[[piece]byte(p)] = true
	}
	return f
}

// in returns what of the texts is in content, or "".
func (f finder) in(content []byte) string {
	for i := 0; i+piece <= len(content); i++ {
		if f[[piece]byte(content[i:i+piece])] {
			return string(content[i : i+piece])
		}
	}
	return ""
}
