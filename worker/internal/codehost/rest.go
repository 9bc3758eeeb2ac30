package codehost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
)

// rest calls a forge's REST API for what no MCP server offers.
type rest struct {
	base   string
	http   *http.Client
	header http.Header
	limit  time.Duration
	redact *telemetry.Redactor
}

func (c Config) rest(header http.Header) rest {
	return rest{strings.TrimSuffix(c.API, "/"), c.HTTP, header, c.callLimit(), telemetry.NewRedactor(c.Token)}
}

// do sends in, unless it is nil, and decodes the answer into out, unless that is nil.
func (r rest) do(ctx context.Context, method, path string, in, out any) (err error) {
	ctx, span := otel.Tracer("nofx.dev/worker/internal/codehost").Start(ctx, method, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(telemetry.HTTPMethodKey.String(method)))
	defer func() {
		if e, ok := errors.AsType[*fault.Error](err); ok {
			span.SetAttributes(telemetry.ErrorTypeKey.String(e.Code))
			span.SetStatus(codes.Error, e.Code)
		}
		span.End()
	}()
	doing := method + " " + path
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: encode: %w", doing, err)
		}
		body = bytes.NewReader(text)
	}
	limited, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, method, r.base+path, body)
	if err != nil {
		return fault.New(fault.Invalid, "bad-request", "%s: the address cannot be used", doing)
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	span.SetAttributes(telemetry.ServerAddressKey.String(req.URL.Hostname()))
	resp, err := r.http.Do(req)
	if err != nil {
		return r.lost(ctx, doing, err)
	}
	span.SetAttributes(telemetry.HTTPStatusKey.Int(resp.StatusCode))
	defer func() { _ = resp.Body.Close() }() // it has been read
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		e := ofAnswer(resp)
		e.Detail = doing + ": " + e.Detail
		e.Err = shown(r.redact, e.Err.Error())
		return e
	}
	text, err := io.ReadAll(&bounded{resp.Body, maxAnswer})
	if err != nil {
		return r.lost(ctx, doing, err)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte: // as it is
		*out = text
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fault.New(fault.Unavailable, "bad-answer", "%s: the answer cannot be read", doing).Because(err)
	}
	return nil
}

// lost returns the fault of a request without an answer. The error of the client names the
// address, which has no secret in it.
func (r rest) lost(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	if k := fault.KindOf(err); k != "" {
		return err // the client refuses the address
	}
	return fault.New(fault.Unavailable, "no-answer", "%s: no answer", doing).Because(shown(r.redact, err.Error()))
}

// ofAnswer returns the fault of an answer that is none of success, because of its body, which
// may have secrets.
func ofAnswer(resp *http.Response) *fault.Error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fault.New(fault.Unavailable, "no-answer", "no answer").Because(err)
	}
	e := ofStatus(resp.StatusCode, string(text))
	if wait := retryAfter(resp.Header); wait > 0 {
		if e.Kind == fault.Forbidden {
			e = fault.New(fault.RateLimited, "rate-limited", "the forge asks to wait")
		}
		e.RetryAfter = wait
	}
	return e.Because(errors.New(strings.ToValidUTF8(string(text), "")))
}

// retryAfter returns the wait that an answer asks for: its Retry-After, or the time until a
// limit that is used up begins anew.
func retryAfter(h http.Header) time.Duration {
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	if at, err := strconv.ParseInt(h.Get("X-Ratelimit-Reset"), 10, 64); err == nil && h.Get("X-Ratelimit-Remaining") == "0" {
		return max(time.Second, time.Until(time.Unix(at, 0)).Round(time.Second))
	}
	return 0
}
