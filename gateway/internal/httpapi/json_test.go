package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"nofx.dev/shared/fault"
)

type document struct {
	N    int               `json:"n"`
	F    float64           `json:"f"`
	S    string            `json:"s"`
	List []string          `json:"list"`
	Any  json.RawMessage   `json:"any"`
	Map  map[string]string `json:"map"`
}

func TestS12_Decode(t *testing.T) {
	t.Parallel()
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, tc := range []struct {
		name, body    string
		code, pointer string // no code: it is read
	}{
		{"all fields", `{"n":1,"f":1.5e3,"s":"aé\uD83D\uDE00\ud83d\ude00","list":["x"],"any":{"a":[1,null,true]},"map":{"k":"v"}}`, "", ""},
		{"empty object", `{}`, "", ""},
		{"space around", " \n{ }\t", "", ""},
		{"replacement character", `{"s":"\ufffd�"}`, "", ""},
		{"escaped backslash before u", `{"s":"\\u0000 \\ud800"}`, "", ""},
		{"nothing", ``, "malformed-json", ""},
		{"space alone", ` `, "malformed-json", ""},
		{"cut off", `{"n":1`, "malformed-json", ""},
		{"cut string", `{"s":"`, "malformed-json", ""},
		{"cut escape", `{"s":"\`, "malformed-json", ""},
		{"cut unicode escape", `{"s":"\u00`, "malformed-json", ""},
		{"bad escape", `{"s":"\x"}`, "malformed-json", ""},
		{"not JSON", `hello`, "malformed-json", ""},
		{"two documents", `{} {}`, "malformed-json", ""},
		{"trailing data", `{"n":1}x`, "malformed-json", ""},
		{"trailing bracket", `{}]`, "malformed-json", ""},
		{"control character", "{\"s\":\"a\nb\"}", "malformed-json", ""},
		{"invalid UTF-8", "{\"s\":\"\xff\"}", "invalid-field", "/s"},
		{"comment", `{/* */}`, "malformed-json", ""},
		{"single quotes", `{'n':1}`, "malformed-json", ""},
		{"leading zero", `{"n":01}`, "malformed-json", ""},
		{"NaN", `{"f":NaN}`, "malformed-json", ""},
		{"byte order mark", "\ufeff{}", "malformed-json", ""},
		{"wrong type of all", `[]`, "malformed-json", ""},
		{"string for all", `"x"`, "malformed-json", ""},
		{"string for a number", `{"n":"1"}`, "malformed-json", "/n"},
		{"number for a string", `{"s":1}`, "malformed-json", "/s"},
		{"object in a list", `{"list":["a",{}]}`, "malformed-json", "/list/1"},
		{"fraction for an integer", `{"n":1.5}`, "malformed-json", "/n"},
		{"unknown field", `{"x":1}`, "unknown-field", "/x"},
		{"other case", `{"N":1}`, "unknown-field", "/N"},
		{"pointer is escaped", `{"a/b~c":1}`, "unknown-field", "/a~1b~0c"},
		{"duplicate field", `{"n":1,"n":1}`, "duplicate-key", "/n"},
		{"duplicate by escape", `{"n":1,"\u006e":1}`, "duplicate-key", "/n"},
		{"duplicate below", `{"any":{"a":[{"b":1,"b":2}]}}`, "duplicate-key", "/any/a/0/b"},
		{"NUL", `{"s":"a\u0000"}`, "invalid-field", "/s"},
		{"NUL below", `{"any":[["\u0000"]]}`, "invalid-field", "/any/0/0"},
		{"high half", `{"s":"\ud800"}`, "invalid-field", "/s"},
		{"low half", `{"s":"x\udc00x"}`, "invalid-field", "/s"},
		{"two high halves", `{"s":"\ud83d\ud83d"}`, "invalid-field", "/s"},
		{"high half and text", `{"s":"\ud83dabcdefgh"}`, "invalid-field", "/s"},
		{"integer too large", `{"n":9223372036854775808}`, "invalid-field", "/n"},
		{"largest integer", `{"n":9223372036854775807}`, "", ""},
		{"minus zero", `{"n":-0,"f":-0.0}`, "", ""},
		{"endless float", `{"f":1e400}`, "invalid-field", "/f"},
		{"endless anywhere", `{"any":[1e309]}`, "invalid-field", "/any/0"},
		{"endlessly small", `{"any":1e-20000}`, "invalid-field", "/any"},
		{"zero with an exponent", `{"any":0e-99999}`, "invalid-field", "/any"},
		{"exponent beyond int", `{"any":1e99999999999999999999}`, "invalid-field", "/any"},
		{"long number", `{"any":0.` + strings.Repeat("0", 100) + `1}`, "invalid-field", "/any"},
		{"32 deep", `{"any":` + deep(31) + `}`, "", ""},
		{"33 deep", `{"any":` + deep(32) + `}`, "too-deep", "/any" + strings.Repeat("/0", 31)},
		{"100,000 deep", strings.Repeat("[", 100_000), "too-deep", strings.Repeat("/0", 32)},
		{"100,000 deep objects", strings.Repeat(`{"a":`, 100_000), "too-deep", strings.Repeat("/a", 32)},
		{"10,000 items", `{"any":[` + strings.Repeat("1,", 9_999) + `1]}`, "", ""},
		{"10,001 items", `{"any":[` + strings.Repeat("1,", 10_000) + `1]}`, "malformed-json", "/any"},
	} {
		var v document
		code, pointer := codeAndPointer(decode([]byte(tc.body), &v))
		if code != tc.code || pointer != tc.pointer {
			t.Errorf("%s: decode = %q at %q, want %q at %q", tc.name, code, pointer, tc.code, tc.pointer)
		}
	}
}

func codeAndPointer(err error) (code, pointer string) {
	e, ok := errors.AsType[*fault.Error](err)
	switch {
	case err == nil:
		return "", ""
	case !ok:
		return err.Error(), ""
	case len(e.Fields) > 0:
		pointer = e.Fields[0].Pointer
	}
	return e.Code, pointer
}

// FuzzDecode checks that whatever is read would be taken by Postgres and by
// encoding/json, and that every refusal is a fault.Invalid.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"s":"\ud83d\ude00"}`, `{"any":{"a":[1.5e-3,null]}}`, `{"n":1,"n":2}`, `[[`, `{"s":"\u0000"}`, "\xff", `{"any":1e5}`, `{"s":"\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v document
		err := decode(body, &v)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("decode(%q) = %v, want a fault.Invalid", body, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("decode(%q) took what is no JSON", body)
		}
		check := func(s string) {
			if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
				t.Fatalf("decode(%q) took the text %q", body, s)
			}
		}
		var all any
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatalf("decode(%q) took what encoding/json does not: %v", body, err)
		}
		var walk func(v any, depth int)
		walk = func(v any, depth int) {
			if depth > maxDepth {
				t.Fatalf("decode(%q) took %d levels", body, depth)
			}
			switch v := v.(type) {
			case string:
				check(v)
			case []any:
				for _, item := range v {
					walk(item, depth+1)
				}
			case map[string]any:
				for name, item := range v {
					check(name)
					walk(item, depth+1)
				}
			}
		}
		walk(all, 0)
	})
}

// Where a member is any JSON, its numbers are of any size; others are not.
func TestFreeNumbers(t *testing.T) {
	t.Parallel()
	for body, pointer := range map[string]string{
		`{"any":[1e309,1e-20000,0e-99999,1e99999999999999999999,-12345678901234567890,0.` + strings.Repeat("0", 100) + `1]}`: "",
		`{"any":{"a":{"b":1e400}}}`:         "",
		`{"any":1e400}`:                     "",
		`{"n":9223372036854775808,"any":1}`: "/n",
		`{"f":1e400}`:                       "/f",
		`{"anything":1e400}`:                "/anything",
		`{"any":["\u0000"]}`:                "/any/0",
	} {
		var v document
		if _, got := codeAndPointer(decode([]byte(body), &v, "/any")); got != pointer {
			t.Errorf("decode(%.40s) = a fault at %q, want %q", body, got, pointer)
		}
	}
}

func TestPlainLen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		doc  string
		want int // at least
	}{
		{``, 0}, {`null`, 4}, {`"1e999"`, 7}, {`[12345678901234567890]`, 22}, {`{"a":0.001}`, 11}, {`1e3`, 3},
		{`1e400`, 401}, {`1E-400`, 402}, {`[1e400,1e+400]`, 802}, {`1e131071`, 131072}, {`1e99999999999999999999`, math.MaxInt}, {`[1e9223372036854775807,1e9223372036854775807]`, math.MaxInt},
	} {
		if got := plainLen([]byte(tt.doc)); got < tt.want || got > tt.want+2*len(tt.doc) && tt.want < math.MaxInt {
			t.Errorf("plainLen(%s) = %d, want about %d and no less", tt.doc, got, tt.want)
		}
	}
}

// endless is a body that never ends and counts what was read of it.
type endless struct{ read atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestS12_Bodies(t *testing.T) {
	g := newGateway(t)
	created := g.create(oneStep)
	large := `{"plan":{"goal":"` + strings.Repeat("x", maxBody) + `","steps":[]}}`
	for _, tc := range []struct {
		name, body string
		header     header
		status     int
		code       string
	}{
		{"no media type", oneStep, header{"Content-Type": ""}, 415, "unsupported-media-type"},
		{"form", "a=b", header{"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported-media-type"},
		{"text", oneStep, header{"Content-Type": "text/plain"}, 415, "unsupported-media-type"},
		{"compressed", "\x1f\x8b", header{"Content-Encoding": "gzip"}, 415, "unsupported-media-type"},
		{"too large", large, nil, 413, "too-large"},
		{"charset", oneStep, header{"Content-Type": "application/json; charset=utf-8"}, 201, ""},
		{"exactly as large", oneStep + strings.Repeat(" ", maxBody-len(oneStep)), nil, 201, ""},
		{"one more", oneStep + strings.Repeat(" ", maxBody-len(oneStep)+1), nil, 413, "too-large"},
		{"byte order mark", "\ufeff" + oneStep, nil, 201, ""},
		{"two byte order marks", "\ufeff\ufeff" + oneStep, nil, 400, "malformed-json"},
		{"no body", "", header{"Content-Type": "application/json"}, 400, "malformed-json"},
	} {
		if r := g.do(http.MethodPost, "/api/runs", tc.body, tc.header); r.status != tc.status || r.code() != tc.code {
			t.Errorf("%s = %d %s, want %d %s", tc.name, r.status, r.code(), tc.status, tc.code)
		}
	}
	g.want(g.do(http.MethodPost, "/api/runs/"+created.Run.ID+"/cancel", "[]"), 400, "malformed-json")

	body := &endless{}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.http.URL+"/api/runs", io.NopCloser(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.key)
	req.Header.Set("Content-Type", "application/json")
	g.want(g.send(req), http.StatusRequestEntityTooLarge, "too-large")
	if read := body.read.Load(); read > 16<<20 {
		t.Errorf("%s of an endless body were read", fmt.Sprint(read>>20, " MiB"))
	}
}

// TestNoBody checks that a body without bytes is none, however that is said.
func TestNoBody(t *testing.T) {
	g := newGateway(t)
	for _, tt := range []struct {
		name, header, content string
		status                int
	}{
		{"nothing", "", "", 200},
		{"no bytes", "Content-Length: 0\r\n", "", 200},
		{"no bytes of JSON", "Content-Length: 0\r\nContent-Type: application/json\r\n", "", 200},
		{"no chunk", "Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 200},
		{"no chunk of JSON", "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n", "0\r\n\r\n", 200},
		{"a reason in chunks", "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n", "1\r\n{\r\nd\r\n\"reason\":\"x\"}\r\n0\r\n\r\n", 200},
		{"chunks without a type", "Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n", 415},
		{"a blank", "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n", "1\r\n \r\n0\r\n\r\n", 400},
		{"a broken chunk", "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n", "x\r\n\r\n", 400},
	} {
		path := "/api/runs/" + g.create(oneStep).Run.ID + "/cancel"
		r := g.raw("POST " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + g.key + "\r\nConnection: close\r\n" + tt.header + "\r\n" + tt.content)
		if r.status != tt.status {
			t.Errorf("cancel with %s = %d %s, want %d", tt.name, r.status, r.body, tt.status)
		}
	}
}
