package llm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"nofx.dev/shared/fault"
)

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 4 << 20

// Guarded is what makes the calls of a vendor's library. Through it the library sees
// whole answers of status 200 alone, each one JSON object of at most 4 MiB; everything
// else is an error that [Failure] finds again.
type Guarded struct{ client http.Client }

// Guard returns client, guarded. Redirects are not followed: a prompt goes to the
// configured address and nowhere else.
func Guard(client *http.Client) *Guarded {
	g := &Guarded{*client}
	g.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return g
}

// Do returns fault.Errors, with codes: fault.RateLimited (rate-limited),
// fault.Unavailable (unavailable; malformed: the answer is cut off or no JSON object;
// too-large), fault.Unauthenticated, fault.Forbidden (also a quota that is used up),
// fault.NotFound, fault.Invalid (any other refusal of the request).
func (g *Guarded) Do(req *http.Request) (*http.Response, error) {
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, refused(resp, content)
	case err != nil:
		return nil, fault.New(fault.Unavailable, "malformed", "the provider's answer broke off").Because(err)
	case len(content) > maxAnswer:
		return nil, fault.New(fault.Unavailable, "too-large", "the provider's answer is larger than %d bytes", maxAnswer)
	}
	if v := jsontext.Value(content); !v.IsValid() || v.Kind() != '{' {
		return nil, notExpected() // the cause would quote it
	}
	resp.Body = io.NopCloser(bytes.NewReader(content))
	resp.Header.Set("Content-Type", "application/json") // compatible servers are lax about it, the libraries are not
	return resp, nil
}

// Failure returns the error of a call that a vendor's library made through [Guard]. What
// the library itself says may quote a prompt, an answer or an address, and is left out.
func Failure(err error) error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	return notExpected()
}

func notExpected() error { return Malformed("it is not the JSON expected") }

// Malformed returns the error of an answer that is not what the provider's API says.
func Malformed(format string, args ...any) error {
	return fault.New(fault.Unavailable, "malformed", "the provider's answer cannot be used: %s", fmt.Sprintf(format, args...))
}

// unreachable returns the error of a request that got no answer. After a refusal of our
// own client, trying again cannot help.
func unreachable(err error) error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the address, which may hold more than a host
	}
	return fault.New(fault.Unavailable, "unavailable", "the provider cannot be reached").Because(err)
}

// word is a code of the other side that may be shown; anything else may be prose
// with a prompt or a key in it.
var word = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// refused returns the error of an answer other than a success.
func refused(resp *http.Response, content []byte) error {
	var doc struct {
		Error struct {
			Type string          `json:"type"`
			Code json.RawMessage `json:"code"` // a word, a number or null
		} `json:"error"`
	}
	_ = json.Unmarshal(content, &doc) // without it there is less to tell
	code := strings.Trim(string(doc.Error.Code), `"`)
	said := ""
	for _, w := range []string{doc.Error.Type, code} {
		if word.MatchString(w) && w != "null" {
			said += " " + w
		}
	}
	kind, name := fault.Invalid, "invalid"
	switch s := resp.StatusCode; {
	case s == http.StatusTooManyRequests && code == "insufficient_quota":
		kind, name = fault.Forbidden, "forbidden"
	case s == http.StatusTooManyRequests:
		kind, name = fault.RateLimited, "rate-limited"
	case s >= 500 || s == http.StatusRequestTimeout:
		kind, name = fault.Unavailable, "unavailable"
	case s == http.StatusUnauthorized:
		kind, name = fault.Unauthenticated, "unauthenticated"
	case s == http.StatusForbidden:
		kind, name = fault.Forbidden, "forbidden"
	case s == http.StatusNotFound:
		kind, name = fault.NotFound, "not-found"
	}
	e := fault.New(kind, name, "the provider answered %d%s", resp.StatusCode, said)
	e.RetryAfter = retryAfter(resp.Header.Get("Retry-After"))
	return e
}

// maxRetryAfter is how long a provider may ask to be left alone.
const maxRetryAfter = time.Hour

// retryAfter reads seconds or a date.
func retryAfter(s string) time.Duration {
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 {
		return time.Duration(min(n, maxRetryAfter.Seconds()) * float64(time.Second))
	}
	if at, err := http.ParseTime(s); err == nil {
		return min(max(0, time.Until(at)), maxRetryAfter)
	}
	return 0
}
