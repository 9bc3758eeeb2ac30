package run

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"unicode"
)

// AlertEvents are the events that endpoints of alerts can ask for, sorted. alert_event in the
// database says which events of runs they are.
var AlertEvents = []string{"approval.requested", "gate.failed", "run.failed"}

// maxAlertURL is the most bytes of the URL of an endpoint.
const maxAlertURL = 2048

// BadAlertURL returns why a text cannot be the URL of an endpoint of alerts, or "". With
// local, as in development, http to a loopback address will do. Which addresses a request may
// be made to is checked when it is made.
func BadAlertURL(text string, local bool) string {
	if len(text) > maxAlertURL {
		return fmt.Sprintf("has %d bytes; at most %d", len(text), maxAlertURL)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) || r == ' ' }) {
		return "must have printable ASCII characters only; escape others"
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "must be a URL such as https://hooks.example.com/nofx"
	case u.User != nil:
		return "must have no user or password"
	case strings.Contains(text, "#"):
		return "must have no fragment"
	case !goodPort(u):
		return "must have a port from 1 to 65535, or none"
	case badHost(strings.TrimSuffix(u.Hostname(), ".")):
		return "has a host that is neither a name nor an address"
	case u.Scheme == "https", u.Scheme == "http" && local && isLoopback(u.Hostname()):
		return ""
	}
	return "must begin with https://"
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || strings.EqualFold(host, "localhost")
}
