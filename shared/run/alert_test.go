package run

import (
	"strings"
	"testing"
)

func TestBadAlertURL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		url   string
		local bool
		want  string // in what is wrong with it; "": nothing is
	}{
		{"https://hooks.example.com/nofx?team=core", false, ""},
		{"https://hooks.example.com:8443", false, ""},
		{"https://[2001:db8::1]/x", false, ""},
		{"http://127.0.0.1:9/x", true, ""},
		{"http://[::1]:9/x", true, ""},
		{"http://localhost:9/x", true, ""},
		{"http://127.0.0.1:9/x", false, "https"},
		{"http://hooks.example.com/", true, "https"},
		{"http://localhost.example.com/", true, "https"},
		{"", false, "URL"},
		{"hooks.example.com/x", false, "URL"},
		{"https:hooks.example.com", false, "URL"},
		{"https:///x", false, "URL"},
		{"https://:443/x", false, "URL"},
		{"https://example.com:65535/x", false, ""},
		{"https://example.com:/x", false, "port"},
		{"https://example.com:0/x", false, "port"},
		{"https://example.com:65536/x", false, "port"},
		{"https://127.1/x", false, "neither"},
		{"https://0x7f000001/x", false, "neither"},
		{"https://2130706433/x", false, "neither"},
		{"https://[fe80::1%25eth0]/x", false, "neither"},
		{"https://a b/", false, "printable"},
		{"https://example.com/\n", false, "printable"},
		{"https://exämple.com/", false, "printable"},
		{"https://user@example.com/", false, "password"},
		{"https://user:pass@example.com/", false, "password"},
		{"https://example.com/#x", false, "fragment"},
		{"https://example.com/#", false, "fragment"},
		{"ftp://example.com/", true, "https"},
		{"file:///etc/passwd", true, "URL"},
		{"javascript:alert(1)", true, "URL"},
		{"https://example.com/" + strings.Repeat("x", maxAlertURL), false, "at most"},
	} {
		if got := BadAlertURL(tt.url, tt.local); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("BadAlertURL(%.60q, %v) = %q, want %q in it", tt.url, tt.local, got, tt.want)
		}
	}
}
