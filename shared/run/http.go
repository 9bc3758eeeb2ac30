package run

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// HTTPInputs are the inputs of tool http.
type HTTPInputs struct {
	Method       string            `json:"method,omitempty"` // GET by default
	URL          string            `json:"url"`
	Headers      map[string]string `json:"headers,omitempty"`
	Body         *string           `json:"body,omitempty"`
	ExpectStatus []int             `json:"expect_status,omitempty"` // any 2xx by default
}

// Expects reports whether a status is one that the plan wants.
func (in HTTPInputs) Expects(status int) bool {
	if in.ExpectStatus == nil {
		return status >= 200 && status < 300
	}
	return slices.Contains(in.ExpectStatus, status)
}

var (
	httpMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
	headerName  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")
	// Headers that the worker or the connection sets.
	ownHeaders = []string{
		"connection", "content-length", "expect", "host", "idempotency-key", "keep-alive", "proxy-authorization", "proxy-connection",
		"te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade",
	}
)

func (c *checker) http(in HTTPInputs) {
	method := in.Method
	if method == "" {
		method = "GET"
	}
	if !c.open(method) && !slices.Contains(httpMethods, method) {
		c.add("/method", "must be one of "+strings.Join(httpMethods, ", "))
	}
	if !c.open(in.URL) {
		if detail := badURL(in.URL); detail != "" {
			c.add("/url", detail)
		}
	}
	c.headers(in.Headers)
	if in.Body != nil {
		if (method == "GET" || method == "HEAD") && !c.unsure("", "method") {
			c.add("/body", method+" sends none")
		}
		c.size("/body", *in.Body, 0, 256<<10)
	}
	if in.ExpectStatus != nil && (len(in.ExpectStatus) == 0 || len(in.ExpectStatus) > 50) {
		c.add("/expect_status", "must have 1 to 50 statuses")
	}
	for i, status := range in.ExpectStatus {
		if status < 200 || status > 599 {
			c.add("/expect_status/"+strconv.Itoa(i), "must be between 200 and 599")
		}
	}
}

func (c *checker) headers(headers map[string]string) {
	if len(headers) > 64 {
		c.add("/headers", fmt.Sprintf("%d headers; at most 64", len(headers)))
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		at, lower := "/headers/"+pointerToken(name), strings.ToLower(name)
		switch {
		case !headerName.MatchString(name):
			c.add(at, "a header's name must have 1 to 128 characters, of A to Z, a to z, 0 to 9 and !#$%&'*+-.^_`|~")
		case slices.Contains(ownHeaders, lower):
			c.add(at, "is set by the worker")
		case seen[lower]:
			c.add(at, "is given twice")
		}
		seen[lower] = true
		value := headers[name]
		c.size(at, value, 0, 8<<10)
		if strings.IndexFunc(value, func(r rune) bool { return r < ' ' && r != '\t' && r != 0 || r == 0x7f }) >= 0 {
			c.add(at, "has a control character")
		}
	}
}

// badURL returns why s is not an address for requests, or "". The text never quotes s,
// since an address may contain a secret.
func badURL(s string) string {
	if n := utf8.RuneCountInString(s); n > maxURL {
		return fmt.Sprintf("%d characters; at most %d", n, maxURL)
	}
	if detail := BadText(s); detail != "" {
		return detail
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.ContainsFunc(s, blank) {
		return "must be an absolute http:// or https:// address"
	}
	switch host := strings.TrimSuffix(u.Hostname(), "."); {
	case u.User != nil || strings.Contains(u.Host, "@"):
		return "contains a user or password; send them in a header"
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		return "has a fragment, which is not sent"
	case !goodPort(u):
		return "must have a port between 1 and 65535"
	case badHost(host):
		return "has a host that is neither a name nor an address"
	}
	return ""
}

func blank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

func goodPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

// badHost finds hosts that are numbers but not addresses, such as 127.1 and 2130706433:
// different programs read them differently.
func badHost(host string) bool {
	if strings.Contains(host, ":") {
		a, err := netip.ParseAddr(host)
		return err != nil || a.Zone() != ""
	}
	if len(host) > 253 {
		return true
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "" {
		return true
	}
	if _, err := strconv.ParseUint(last, 0, 64); err != nil && strings.Trim(last, "0123456789") != "" {
		return false
	}
	_, err := netip.ParseAddr(host)
	return err != nil
}
