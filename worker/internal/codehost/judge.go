package codehost

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"nofx.dev/shared/fault"
	"nofx.dev/worker/internal/reviewer"
)

// The servers report a forge's errors as sentences. What matters of them is here: the
// status, the wait, and the few cases that the posting of a review acts upon.

var (
	statusIn = regexp.MustCompile(`(?:\bstatus(?: code)?:? |: )([45]\d\d)\b`)
	waitIn   = regexp.MustCompile(`(?i)(?:retry after|rate reset in|retry in|try again in) (\d[\dhms.]*)`)
)

// said are phrases, in lower case, and what they mean. The first that is found counts.
var said = []struct {
	phrase string
	kind   fault.Kind
	code   string
	detail string
}{
	{"one pending review", fault.Conflict, reviewer.CodePending, "the account has a pending review"},
	{"no pending review", fault.Conflict, reviewer.CodeNotPending, "the account has no pending review"},
	{"not pending", fault.Conflict, reviewer.CodeNotPending, "the review is not pending"},
	{"not in the pending state", fault.Conflict, reviewer.CodeNotPending, "the review is not pending"},
	{"exceeded the maximum number of", fault.Invalid, reviewer.CodeTooLarge, "the forge does not show a diff of this size"},
	{"could not resolve to a", fault.NotFound, "not-found", "the forge has no such thing"},
	{"does not point to a file", fault.NotFound, "not-found", "the repository has no such file"},
	{"resource not accessible", fault.Forbidden, "forbidden", "the account may not do this"},
	{"bad credentials", fault.Unauthenticated, "unauthenticated", "the forge does not know the credential"},
	{"failed to add comment to pending review", fault.Invalid, "comment-refused", "the forge does not take the comment at that place"},
	{"must be part of the", fault.Invalid, "comment-refused", "the forge does not take the comment at that place"},
	{"is too long", fault.Invalid, "comment-refused", "the forge does not take a text of this length"},
}

// judge returns the fault that a text is about.
func judge(text string) *fault.Error {
	low := strings.ToLower(text)
	if strings.Contains(low, "rate limit") || strings.Contains(low, "status code 429") {
		e := fault.New(fault.RateLimited, "rate-limited", "the forge asks to wait")
		if m := waitIn.FindStringSubmatch(text); m != nil {
			e.RetryAfter = waitOf(m[1])
		}
		return e
	}
	for _, s := range said {
		if strings.Contains(low, s.phrase) {
			return fault.New(s.kind, s.code, "%s", s.detail)
		}
	}
	if m := statusIn.FindStringSubmatch(text); m != nil {
		status, _ := strconv.Atoi(m[1]) // three digits
		return ofStatus(status, text)
	}
	return fault.New(fault.Unavailable, "forge-error", "the forge reports an error")
}

// ofStatus returns the fault of an HTTP status.
func ofStatus(status int, text string) *fault.Error {
	switch {
	case strings.Contains(strings.ToLower(text), "rate limit") || status == http.StatusTooManyRequests:
		e := fault.New(fault.RateLimited, "rate-limited", "the forge asks to wait")
		return e
	case status == http.StatusUnauthorized:
		return fault.New(fault.Unauthenticated, "unauthenticated", "the forge does not know the credential")
	case status == http.StatusForbidden:
		return fault.New(fault.Forbidden, "forbidden", "the account may not do this")
	case status == http.StatusNotFound || status == http.StatusGone:
		return fault.New(fault.NotFound, "not-found", "the forge has no such thing")
	case status == http.StatusNotAcceptable:
		return fault.New(fault.Invalid, reviewer.CodeTooLarge, "the forge does not show a diff of this size")
	case status == http.StatusConflict:
		return fault.New(fault.Conflict, "conflict", "the forge cannot do this now")
	case status < http.StatusInternalServerError:
		return fault.New(fault.Invalid, "refused", "the forge refuses this (status %d)", status)
	}
	return fault.New(fault.Unavailable, "forge-error", "the forge answers with status %d", status)
}

// waitOf reads 30s, 1m0s, or a number of seconds.
func waitOf(s string) time.Duration {
	if d, err := time.ParseDuration(strings.TrimRight(s, ".")); err == nil {
		return max(d, time.Second)
	}
	n, err := strconv.ParseFloat(strings.TrimRight(s, "."), 64)
	if err != nil {
		return 0
	}
	return max(time.Duration(n*float64(time.Second)), time.Second)
}
