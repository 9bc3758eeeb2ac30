package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/egress"
)

// ledger remembers effects as the database does.
type ledger struct {
	mu   sync.Mutex
	done map[string]json.RawMessage // by digest
	keys []string                   // asked under
}

func (l *ledger) effect(ctx context.Context, e Effect) (json.RawMessage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if result := l.done[e.Digest]; result != nil {
		return result, nil
	}
	l.keys = append(l.keys, "run_1/build")
	result, err := e.Do(ctx, "run_1/build")
	if err == nil {
		l.done[e.Digest] = result
	}
	return result, err
}

// server answers requests and keeps what they were.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	headers  []http.Header
}

func serve(t *testing.T, answer http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.requests = append(s.requests, fmt.Sprintf("%s %s %s", r.Method, r.URL, body))
		s.headers = append(s.headers, r.Header)
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// ask runs an http step against s.
func (s *server) ask(t *testing.T, l *ledger, in run.HTTPInputs) (Result, string, error) {
	t.Helper()
	allow, err := egress.ParseAllow([]string{s.Listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	client := egress.NewClient(egress.Config{Allow: allow})
	t.Cleanup(client.CloseIdleConnections)
	in.URL = s.URL + in.URL
	c, log := newCall(t, "http", in)
	c.Effect = l.effect
	r, err := New(Config{HTTP: client}).Run(t.Context(), c)
	return r, log.String(), err
}

func newLedger() *ledger { return &ledger{done: map[string]json.RawMessage{}} }

func TestHTTP(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("X-Two", "a")
		w.Header().Add("X-Two", "b")
		w.Header().Set("Set-Cookie", "session=secret")
		w.Header().Set("Date", "now")
		w.Header().Set("Content-Type", "text/x")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte("made \x00 \xff <it>"))
	})
	l := newLedger()
	body := `{"a":1}`
	in := run.HTTPInputs{Method: "POST", URL: "/x?token=hidden", Headers: map[string]string{"authorization": "Bearer hidden", "Content-Type": "application/json"}, Body: &body}
	r, log, err := s.ask(t, l, in)
	if err != nil {
		t.Fatalf("Run() = %v, want nil", err)
	}
	want := map[string]any{"status": 201.0, "body": "made \ufffd \ufffd <it>", "headers": map[string]any{
		"content-length": "13", "content-type": "text/x", "date": "now", "x-two": "a, b"}}
	if diff := cmp.Diff(want, r.Outputs); diff != "" {
		t.Errorf("outputs (-want +got):\n%s", diff)
	}
	if s.requests[0] != `POST /x?token=hidden {"a":1}` {
		t.Errorf("request = %s", s.requests[0])
	}
	for name, want := range map[string]string{"Authorization": "Bearer hidden", "Content-Type": "application/json", "Idempotency-Key": "run_1/build", "User-Agent": "nofx"} {
		if got := s.headers[0].Get(name); got != want {
			t.Errorf("header %s = %q, want %q", name, got, want)
		}
	}
	if want := "POST " + s.URL + "/x: 201 Created\n"; log != want {
		t.Errorf("log = %q, want %q and nothing secret", log, want)
	}
	again, _, err := s.ask(t, l, in)
	if diff := cmp.Diff(r.Outputs, again.Outputs); err != nil || diff != "" || len(s.requests) != 1 {
		t.Errorf("Run(again) = %v after %d requests, want the recorded answer without another (-want +got):\n%s", err, len(s.requests), diff)
	}
	in.Headers = map[string]string{"X": "other"}
	if _, _, err := s.ask(t, l, in); err != nil || len(s.requests) != 2 {
		t.Errorf("Run(other headers) = %v after %d requests, want another", err, len(s.requests))
	}
}

// Reading is no effect: it carries no key and is asked each time.
func TestHTTPReads(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Method) })
	l := newLedger()
	for _, method := range []string{"", "GET", "HEAD", "GET"} {
		r, _, err := s.ask(t, l, run.HTTPInputs{Method: method, URL: "/"})
		if err != nil || r.Outputs["status"] != 200.0 || method == "GET" && r.Outputs["body"] != "GET" {
			t.Errorf("Run(%s) = %v, %v, want 200", method, r.Outputs, err)
		}
	}
	if len(s.requests) != 4 || len(l.keys) != 0 || s.headers[0].Get("Idempotency-Key") != "" {
		t.Errorf("%d requests under keys %v, want 4 and none", len(s.requests), l.keys)
	}
}

func TestHTTPStatus(t *testing.T) {
	t.Parallel()
	status, retryAfter := 0, ""
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		if status != 204 && status != 304 {
			fmt.Fprint(w, "because")
		}
	})
	for _, tt := range []struct {
		status int
		after  string
		expect []int
		wait   time.Duration
		reason string // "" is none
	}{
		{200, "", nil, 0, ""}, {204, "", nil, 0, ""}, {299, "", nil, 0, ""}, {404, "", []int{404, 410}, 0, ""}, {302, "", []int{302}, 0, ""},
		{200, "", []int{201}, 0, "answered 200 OK; expected: 201"}, {202, "", []int{200, 201}, 0, "answered 202 Accepted; expected: 200, 201"}, {304, "", nil, 0, "answered 304 Not Modified"}, {400, "7", nil, 0, "answered 400 Bad Request"},
		{429, "7", nil, 7 * time.Second, "answered 429 Too Many Requests"}, {503, "", nil, 0, "answered 503 Service Unavailable"},
		{503, "99999999", nil, maxRetryAfter, "503"}, {503, "-1", nil, 0, "503"}, {503, "soon", nil, 0, "503"}, {599, "", nil, 0, "answered 599"},
	} {
		status, retryAfter = tt.status, tt.after
		l := newLedger()
		_, log, err := s.ask(t, l, run.HTTPInputs{Method: "POST", URL: "/", ExpectStatus: tt.expect})
		if tt.reason == "" {
			if err != nil {
				t.Errorf("Run(%d of %v) = %v, want nil", tt.status, tt.expect, err)
			}
			continue
		}
		wantFailure(t, fmt.Sprint(tt.status), err, run.ClassTool, tt.reason)
		f, ok := errors.AsType[*Failure](err)
		if ok && f.RetryAfter != tt.wait || len(l.done) != 0 {
			t.Errorf("Run(%d, Retry-After %q) = again after %v, %d recorded, want %v and none", tt.status, tt.after, f.RetryAfter, len(l.done), tt.wait)
		}
		if tt.status == 400 && !strings.HasSuffix(log, "because\n") {
			t.Errorf("log = %q, want what the server said", log)
		}
	}
}

// A redirect that is not followed is the answer: an effect that the server did not
// take is never recorded as done. What is followed stands in the log.
func TestHTTPRedirects(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path := strings.Trim(r.URL.Path, "/")
		if status, err := strconv.Atoi(path); err == nil {
			w.Header().Set("Location", "/end?token=hidden")
			w.WriteHeader(status)
		} else if path == "away" {
			http.Redirect(w, r, "http://elsewhere.example/x?token=hidden", http.StatusFound)
		} else if r.Header.Get("Authorization") != "Bearer of-the-plan" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	body := "x"
	at := s.URL
	for _, tt := range []struct {
		method, path string
		expect       []int
		want         []string // requests
		reason       string   // "": none
		log          string
	}{
		{"POST", "/301", nil, []string{"POST /301 x"}, "answered 301 Moved Permanently; it is not followed: after POST only 303, 307 and 308 are", "POST " + at + "/301: 301 Moved Permanently\n\n"},
		{"PUT", "/302", nil, []string{"PUT /302 x"}, "answered 302 Found; it is not followed: after PUT only", "PUT " + at + "/302: 302 Found\n\n"},
		{"DELETE", "/301", nil, []string{"DELETE /301 x"}, "answered 301", "DELETE " + at + "/301: 301 Moved Permanently\n\n"},
		{"POST", "/302", []int{302}, []string{"POST /302 x"}, "", "POST " + at + "/302: 302 Found\n"},
		{"POST", "/307", []int{200, 307}, []string{"POST /307 x"}, "", "POST " + at + "/307: 307 Temporary Redirect\n"},
		{"GET", "/301", []int{301}, []string{"GET /301 "}, "", "GET " + at + "/301: 301 Moved Permanently\n"},
		{"GET", "/away", []int{302}, []string{"GET /away "}, "", "GET " + at + "/away: 302 Found\n"},
		{"GET", "/away", nil, []string{"GET /away "}, "answered 302 Found; it is not followed: scheme, host and port must stay the same, and it leads to http://elsewhere.example",
			"GET " + at + "/away: 302 Found\n<a href=\"http://elsewhere.example/x?token=***\">Found</a>.\n\n\n"},
		{"GET", "/301", nil, []string{"GET /301 ", "GET /end?token=hidden "}, "", "GET " + at + "/301: 301 Moved Permanently, followed\nGET " + at + "/end: 200 OK\n"},
		{"POST", "/307", nil, []string{"POST /307 x", "POST /end?token=hidden x"}, "", "POST " + at + "/307: 307 Temporary Redirect, followed\nPOST " + at + "/end: 200 OK\n"},
		{"POST", "/303", nil, []string{"POST /303 x", "GET /end?token=hidden "}, "", "POST " + at + "/303: 303 See Other, followed\nGET " + at + "/end: 200 OK\n"},
	} {
		what := fmt.Sprint(tt.method, " ", tt.path, " of ", tt.expect)
		s.requests = nil
		l := newLedger()
		in := run.HTTPInputs{Method: tt.method, URL: tt.path, Headers: map[string]string{"Authorization": "Bearer of-the-plan"}, ExpectStatus: tt.expect}
		if tt.method != "GET" {
			in.Body = &body
		}
		_, log, err := s.ask(t, l, in)
		done := 0
		switch {
		case tt.reason != "":
			wantFailure(t, what, err, run.ClassTool, tt.reason)
		case err != nil:
			t.Errorf("Run(%s) = %v, want nil", what, err)
		case tt.method != "GET":
			done = 1
		}
		if diff := cmp.Diff(tt.want, s.requests); diff != "" || len(l.done) != done || log != tt.log {
			t.Errorf("Run(%s) records %d effects, want %d; log %q, want %q; requests (-want +got):\n%s", what, len(l.done), done, log, tt.log, diff)
		}
	}
}

// Text comes in the charset that its server names, or that its first bytes do.
func TestHTTPCharset(t *testing.T) {
	t.Parallel()
	var media, body string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", media)
		_, _ = io.WriteString(w, body)
	})
	for _, tt := range []struct{ media, body, want string }{
		{"text/plain", "größe", "größe"}, {"text/plain; charset=utf-8", "größe", "größe"}, {"application/json", `{"a":"é"}`, `{"a":"é"}`},
		{"text/plain; charset=ISO-8859-1", "gr\xf6\xdfe", "größe"}, {`text/html; charset="windows-1252"`, "\x80 5", "€ 5"}, {"text/plain;charset=latin1", "\xe9", "é"},
		{"application/xml; charset=iso-8859-2", "\xb3", "ł"}, {"text/plain; charset=koi8-r", "\xc1", "а"}, {"text/plain; charset=Shift_JIS", "\x93\xfa", "日"},
		{"text/plain; charset=gb18030", "\xc4\xe3", "你"}, {"text/plain; charset=us-ascii", "abc", "abc"},
		{"text/plain; charset=utf-16", "\xfe\xff\x00a\x00\xe9", "aé"}, {"text/plain; charset=utf-16be", "\x00a\x00\xe9", "aé"}, {"text/plain; charset=utf-16le", "a\x00\xe9\x00", "aé"},
		{"text/plain", "\xff\xfea\x00", "a"}, {"application/json", "\xef\xbb\xbf{}", "{}"}, {"text/plain; charset=iso-8859-1", "\xef\xbb\xbfé", "é"},
		{"text/plain; charset=no-such", "é\xff", "é\ufffd"}, {"nonsense;;", "é\xff", "é\ufffd"}, {"text/plain; charset=utf-8", "\xf6", "\ufffd"},
		{"text/plain; charset=iso-8859-1", "a\x00b", "a\ufffdb"},
	} {
		media, body = tt.media, tt.body
		r, _, err := s.ask(t, newLedger(), run.HTTPInputs{URL: "/"})
		if err != nil || r.Outputs["body"] != tt.want {
			t.Errorf("Run(%q as %s) = %q, %v, want %q", tt.body, tt.media, r.Outputs["body"], err, tt.want)
		}
	}
	media, body = "text/plain; charset=utf-16", "\xfe\xff"+strings.Repeat("\x00\xe9", 1<<20)
	r, _, err := s.ask(t, newLedger(), run.HTTPInputs{URL: "/"})
	if kept, _ := r.Outputs["body"].(string); err != nil || kept != strings.Repeat("é", maxAnswerBody/2) || r.Outputs["truncated"] != true {
		t.Errorf("Run(2 MiB of UTF-16) keeps %d bytes that begin %.20q, truncated %v, %v, want as many of its characters as fit", len(kept), kept, r.Outputs["truncated"], err)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		after, date string
		want        time.Duration
	}{
		{"", "", 0}, {"0", "", 0}, {"30", "", 30 * time.Second}, {"Thu, 01 Jan 2026 12:00:09 GMT", "", 9 * time.Second},
		{"Thu, 01 Jan 2026 12:00:09 GMT", "Thu, 01 Jan 2026 12:00:05 GMT", 4 * time.Second}, {"Thu, 01 Jan 2026 11:00:00 GMT", "", 0},
		{"Thu, 01 Jan 2099 11:00:00 GMT", "", maxRetryAfter}, {"9223372036854775807", "", 0},
	} {
		h := http.Header{"Retry-After": {tt.after}, "Date": {tt.date}}
		if got := retryAfter(h, now); got != tt.want {
			t.Errorf("retryAfter(%q at %q) = %v, want %v", tt.after, tt.date, got, tt.want)
		}
	}
}

// However large an answer is, what is kept of it fits into the outputs.
func TestHTTPLargeAnswers(t *testing.T) {
	t.Parallel()
	var body string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("<", 5000))
		w.Header().Set("X-Small", "x")
		_, _ = io.WriteString(w, body)
	})
	for _, unit := range []string{"a", "<", "\x01", "é", "\u2028", "\"", "\x00", "\xff", "😀"} {
		body = strings.Repeat(unit, 1<<20)
		r, _, err := s.ask(t, newLedger(), run.HTTPInputs{Method: "POST", URL: "/"})
		if err != nil {
			t.Errorf("Run(1 Mi of %q) = %v, want nil", unit, err)
			continue
		}
		raw, _ := json.Marshal(r.Outputs)
		kept, _ := r.Outputs["body"].(string)
		if len(raw) > run.MaxOutputBytes || len(kept) < maxAnswerBody/8 || r.Outputs["truncated"] != true || strings.ContainsRune(kept, 0) {
			t.Errorf("Run(1 Mi of %q) keeps %d bytes, %d as JSON, truncated %v", unit, len(kept), len(raw), r.Outputs["truncated"])
		}
		headers, _ := r.Outputs["headers"].(map[string]any)
		if headers["x-small"] != "x" || headers["x-large"] != nil {
			t.Errorf("headers = %v, want those that fit", headers)
		}
	}
}

// What fails, and how; an address is never shown as a whole.
func TestHTTPFails(t *testing.T) {
	t.Parallel()
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	hang := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "part")
		case "/hang":
			<-hang
		case "/away":
			http.Redirect(w, r, "http://169.254.169.254/?secret", http.StatusFound)
		}
	})
	t.Cleanup(func() { close(hang) })
	run1 := func(address string) error {
		allow, _ := egress.ParseAllow([]string{s.Listener.Addr().String(), down.Listener.Addr().String()})
		c, _ := newCall(t, "http", run.HTTPInputs{URL: address, Method: "POST"})
		c.Spec.TimeoutS = 1
		c.Effect = newLedger().effect
		_, err := New(Config{HTTP: egress.NewClient(egress.Config{Allow: allow})}).Run(t.Context(), c)
		return err
	}
	for _, tt := range []struct {
		url    string
		class  run.FailureClass
		reason string
	}{
		{s.URL + "/cut?secret", run.ClassTool, "unexpected EOF"},
		{s.URL + "/hang?secret", run.ClassTimeout, "time limit"},
		{s.URL + "/away?secret", run.ClassTool, "answered 302 Found"},
		{down.URL + "/?secret", run.ClassTool, "connection refused"},
		{"http://127.0.0.1:1/?secret", run.ClassPolicy, "NOFX_EGRESS_ALLOW"},
		{"http://[::ffff:127.0.0.1]:1/?secret", run.ClassPolicy, "NOFX_EGRESS_ALLOW"},
		{"http://\x7f/?secret", run.ClassInvalid, "no request"},
	} {
		err := run1(tt.url)
		wantFailure(t, tt.url, err, tt.class, tt.reason)
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(fmt.Sprint(errors.Unwrap(err)), "secret")) {
			t.Errorf("Run(%s) = %v, %v, which tells the address", tt.url, err, errors.Unwrap(err))
		}
	}
	// Without a list of the administrator's nothing inside is reached.
	c, _ := newCall(t, "http", run.HTTPInputs{URL: s.URL})
	_, err := New(Config{}).Run(t.Context(), c)
	wantFailure(t, "by default", err, run.ClassPolicy, "NOFX_EGRESS_ALLOW")
}

// An answer that the plan does not expect is said with what it expects, and the log
// keeps the path that was asked for; queries and secrets are told nowhere.
func TestHTTPSaysWhatWasExpected(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	host := strings.TrimPrefix(s.URL, "http://")
	allow, _ := egress.ParseAllow([]string{host})
	for _, tt := range []struct {
		expect []int
		want   string
	}{
		{nil, "answered 404 Not Found; expected: any 2xx"},
		{[]int{201}, "answered 404 Not Found; expected: 201"},
		{[]int{200, 204, 301}, "answered 404 Not Found; expected: 200, 204, 301"},
	} {
		c, log := newCall(t, "http", run.HTTPInputs{URL: s.URL + "/api/v1/hunter2/users%2F7?key=value", ExpectStatus: tt.expect})
		_, err := New(Config{HTTP: egress.NewClient(egress.Config{Allow: allow}), Redactor: telemetry.NewRedactor("hunter2")}).Run(t.Context(), c)
		wantFailure(t, fmt.Sprint(tt.expect), err, run.ClassTool, "GET http://"+host+" "+tt.want)
		if got, want := log.String(), "GET http://"+host+"/api/v1/***/users%2F7: 404 Not Found\n"; !strings.HasPrefix(got, want) || strings.Contains(got, "value") {
			t.Errorf("log = %q, want it to begin with %q, without the query", got, want)
		}
	}
}

// A lost lease is told as it is, also when it ends a request.
func TestHTTPFenced(t *testing.T) {
	t.Parallel()
	arrived, hang := make(chan struct{}), make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { close(arrived); <-hang })
	t.Cleanup(func() { close(hang) })
	lost := fault.New(fault.Fenced, "fenced", "the lease is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-arrived; cancel(lost) }()
	allow, _ := egress.ParseAllow([]string{s.Listener.Addr().String()})
	c, _ := newCall(t, "http", run.HTTPInputs{URL: s.URL, Method: "PUT"})
	c.Effect = newLedger().effect
	if _, err := New(Config{HTTP: egress.NewClient(egress.Config{Allow: allow})}).Run(ctx, c); err != error(lost) {
		t.Errorf("Run(fenced) = %v, want the context's cause", err)
	}
}
