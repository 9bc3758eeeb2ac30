package llm

import (
	"bytes"
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"nofx.dev/shared/fault"
)

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 4 << 20

// Post sends body as JSON and reads the JSON of a 200 into answer, whose unknown
// members are passed over. It does not try again.
//
// Errors, with codes: fault.RateLimited (rate-limited), fault.Unavailable
// (unavailable; malformed: the answer is cut off or no such JSON; too-large),
// fault.Unauthenticated, fault.Forbidden (also a quota that is used up),
// fault.NotFound, fault.Invalid (any other refusal of the request).
func Post(ctx context.Context, client *http.Client, url string, header http.Header, body, answer any) error {
	raw, err := stdjson.Marshal(body)
	if err != nil {
		return fmt.Errorf("request as JSON: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return fault.New(fault.Invalid, "invalid", "the provider's address cannot be used")
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return unreachable(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if resp.StatusCode != http.StatusOK {
		return refused(resp, content)
	}
	switch {
	case err != nil:
		return fault.New(fault.Unavailable, "malformed", "the provider's answer broke off").Because(withoutURL(err))
	case len(content) > maxAnswer:
		return fault.New(fault.Unavailable, "too-large", "the provider's answer is larger than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(content, answer); err != nil {
		return Malformed("it is not the JSON expected") // the cause would quote it
	}
	return nil
}

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
	return fault.New(fault.Unavailable, "unavailable", "the provider cannot be reached").Because(withoutURL(err))
}

// withoutURL returns err without the address, which may hold more than a host.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// word is a code of the other side that may be shown; anything else may be prose
// with a prompt or a key in it.
var word = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// refused returns the error of an answer other than a success.
func refused(resp *http.Response, content []byte) error {
	var doc struct {
		Error struct {
			Type string             `json:"type"`
			Code stdjson.RawMessage `json:"code"` // a word, a number or null
		} `json:"error"`
	}
	_ = stdjson.Unmarshal(content, &doc) // without it there is less to tell
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
