package tool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gowebpki/jcs"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/unicode"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/sieve"
)

// What of an answer becomes outputs, in bytes as JSON; both together leave room
// within run.MaxOutputBytes.
const (
	maxAnswerBody    = 48 << 10
	maxReadBody      = 128 << 10 // what is read of it, for secrets that begin before its end to be seen whole
	maxAnswerHeaders = 8 << 10
)

// maxRetryAfter is how long a server may ask to be left alone.
const maxRetryAfter = time.Hour

// answer is what came back, as the step's outputs.
type answer struct {
	Status    int               `json:"status"`
	Headers   map[string]string `json:"headers"` // names in lower case
	Body      string            `json:"body"`
	Truncated bool              `json:"truncated,omitempty"` // there was more of it
}

// http does one request through the guarded client. Unless it is a GET or a HEAD
// it is an effect: it carries Idempotency-Key, the same on every attempt, and one
// that was answered as the plan expects is not sent again.
//
// Outputs: status, headers, body (text), truncated where that is not all of it.
// What a plan puts into address, headers and body may be secret: of the request the
// log tells method, host and path alone, and reasons leave out the path as well.
func (b *Box) http(ctx context.Context, c Call, in run.HTTPInputs) (Result, error) {
	in.Method = cmp.Or(in.Method, http.MethodGet)
	send := func(ctx context.Context, key string) (json.RawMessage, error) { return b.send(ctx, c, in, key) }
	var raw json.RawMessage
	var err error
	if in.Method == http.MethodGet || in.Method == http.MethodHead {
		raw, err = send(ctx, "")
	} else {
		var digest string
		if digest, err = requestDigest(in); err != nil {
			return Result{}, Failuref(run.ClassInvalid, "the request as JSON: %w", err)
		}
		raw, err = c.Effect(ctx, Effect{Name: run.ToolHTTP, Digest: digest, Do: send})
	}
	if err != nil {
		if _, ok := errors.AsType[*Failure](err); !ok && ctx.Err() != nil {
			err = ended(ctx)
		}
		return Result{}, err
	}
	var r Result
	if err := json.Unmarshal(raw, &r.Outputs); err != nil {
		return Result{}, Failuref(run.ClassInfrastructure, "the recorded answer cannot be read: %w", err)
	}
	return r, nil
}

// requestDigest returns the digest of the request in RFC 8785 form: method, url, headers, body.
func requestDigest(in run.HTTPInputs) (string, error) {
	in.ExpectStatus = nil
	raw, err := json.Marshal(in)
	if err == nil {
		raw, err = jcs.Transform(raw)
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// send sends the request once and returns the answer, if it is one that the plan
// expects.
func (b *Box) send(ctx context.Context, c Call, in run.HTTPInputs, key string) (json.RawMessage, error) {
	ctx, span := tracer().Start(ctx, in.Method, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(telemetry.HTTPMethodKey.String(in.Method)))
	defer span.End()
	req, err := newRequest(ctx, in, key)
	if err != nil {
		return nil, Failuref(run.ClassInvalid, "no request can be made of the inputs")
	}
	what := in.Method + " " + req.URL.Scheme + "://" + req.URL.Host
	span.SetAttributes(telemetry.ServerAddressKey.String(req.URL.Hostname()))
	resp, err := b.client(in).Do(req)
	if err != nil {
		return nil, b.unanswered(ctx, what, err)
	}
	defer resp.Body.Close()
	span.SetAttributes(telemetry.HTTPStatusKey.Int(resp.StatusCode))
	a, err := b.readAnswer(resp)
	if err != nil {
		return nil, b.unanswered(ctx, what, err)
	}
	for _, r := range egress.Followed(resp) {
		fmt.Fprintf(c.Log, "%s, followed\n", b.said(r))
	}
	fmt.Fprintf(c.Log, "%s\n", b.said(resp))
	if !in.Expects(resp.StatusCode) {
		fmt.Fprintf(c.Log, "%s\n", a.Body)
		f := Failuref(run.ClassTool, "%s answered %s%s", what, status(resp), b.unexpected(in, resp))
		if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
			f.RetryAfter = retryAfter(resp.Header, time.Now())
		}
		return nil, f
	}
	return json.Marshal(a)
}

// client returns the guarded client, to which also a redirect is an answer when the plan
// expects its status.
func (b *Box) client(in run.HTTPInputs) *http.Client {
	client := *b.cfg.HTTP
	client.CheckRedirect = func(next *http.Request, before []*http.Request) error {
		if in.Expects(next.Response.StatusCode) {
			return http.ErrUseLastResponse
		}
		return b.cfg.HTTP.CheckRedirect(next, before)
	}
	return &client
}

// said returns a line of the log: what was asked and answered, of the address no more than
// its path.
func (b *Box) said(resp *http.Response) string {
	r := resp.Request
	return r.Method + " " + r.URL.Scheme + "://" + r.URL.Host + sieve.Beginning(b.masked(r.URL.EscapedPath()), 512) + ": " + status(resp)
}

func status(resp *http.Response) string {
	return strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode))
}

// unexpected returns the rest of a reason: why a redirect was not followed, and what was
// expected.
func (b *Box) unexpected(in run.HTTPInputs, resp *http.Response) (more string) {
	if why := egress.Unfollowed(resp); why != "" {
		more = "; it is not followed: " + sieve.Beginning(b.masked(why), 512)
	}
	return more + "; expected: " + expectation(in.ExpectStatus)
}

// expectation lists the statuses that a plan wants.
func expectation(statuses []int) string {
	if statuses == nil {
		return "any 2xx"
	}
	list := make([]string, len(statuses))
	for i, s := range statuses {
		list[i] = strconv.Itoa(s)
	}
	return strings.Join(list, ", ")
}

func newRequest(ctx context.Context, in run.HTTPInputs, key string) (*http.Request, error) {
	var body io.Reader
	if in.Body != nil {
		body = strings.NewReader(*in.Body)
	}
	req, err := http.NewRequestWithContext(ctx, in.Method, in.URL, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "nofx")
	for name, value := range in.Headers {
		req.Header.Set(name, value)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	if parent := telemetry.Inject(ctx); parent != "" {
		req.Header.Set("Traceparent", parent)
	}
	return req, nil
}

// unanswered returns the failure of a request without a whole answer.
func (b *Box) unanswered(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // which does not show the address
	}
	if e, ok := errors.AsType[*fault.Error](err); ok && e.Kind == fault.Forbidden {
		return Failuref(run.ClassPolicy, "%s is refused: %s", what, e.Detail)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return Failuref(run.ClassTool, "%s: looking its host up: %s", what, e.Err)
	}
	f := Failuref(run.ClassTool, "%s: %s", what, sieve.Beginning(b.masked(err.Error()), 512)) // which may quote the server
	f.Err = err
	return f
}

// readAnswer keeps of a response what fits into outputs, without secrets. Cookies are
// left out: they are credentials.
func (b *Box) readAnswer(resp *http.Response) (answer, error) {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReadBody+1))
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode, Headers: map[string]string{}, Truncated: len(raw) > maxReadBody}
	if raw, err = decoder(resp.Header).Bytes(raw); err != nil {
		return answer{}, err
	}
	text := sieve.New(b.cfg.Redactor.String)
	body := string(text.Pass(raw))
	if !a.Truncated {
		body += string(text.End())
	} // else the sieve keeps an end that may be half a secret
	a.Body = fitting(body, maxAnswerBody)
	a.Truncated = a.Truncated || len(a.Body) < len(body)
	room := maxAnswerHeaders
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		if name == "Set-Cookie" {
			continue
		}
		key := b.masked(strings.ToLower(name))
		value := b.cfg.Redactor.Named(key, sieve.Clean(strings.Join(resp.Header[name], ", ")))
		size := encodedLen(key) + encodedLen(value) + len(`"":"",`)
		if size > room {
			a.Truncated = true
			continue
		}
		a.Headers[key] = value
		room -= size
	}
	return a, nil
}

// decoder makes UTF-8 of an answer: by its byte order mark, else by the charset that
// its header names. Any other is taken for UTF-8.
func decoder(h http.Header) *encoding.Decoder {
	charset := encoding.Encoding(unicode.UTF8)
	if _, params, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil {
		if named, err := htmlindex.Get(params["charset"]); err == nil {
			charset = named
		}
	}
	return &encoding.Decoder{Transformer: unicode.BOMOverride(charset.NewDecoder())}
}

// fitting returns the longest beginning of s that is at most n bytes as JSON.
func fitting(s string, n int) string {
	for i, r := range s {
		if n -= encodedRune(r); n < 0 {
			return s[:i]
		}
	}
	return s
}

func encodedLen(s string) (n int) {
	for _, r := range s {
		n += encodedRune(r)
	}
	return n
}

// encodedRune returns how many bytes encoding/json makes of r at the most.
func encodedRune(r rune) int {
	switch {
	case r < ' ' || r == '<' || r == '>' || r == '&' || r == '\u2028' || r == '\u2029':
		return len(`\u0000`)
	case r == '"' || r == '\\':
		return 2
	}
	return utf8.RuneLen(r)
}

// retryAfter returns how long the server asks to be left alone: a number of seconds or
// a time, by the server's clock if it tells, else by now.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return min(max(0, time.Duration(seconds)*time.Second), maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(0, at.Sub(now)), maxRetryAfter)
}
