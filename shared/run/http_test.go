package run_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"http://a", "https://a.example/", "https://a.example.:8443/x?y=z%20", "http://127.0.0.1:80/", "http://[::1]:8080/", "http://xn--e1afmkfd.example", "http://é.example/", "http://1.example/", "https://a_b.example/"} {
		if _, err := parse(t, one("http", fmt.Sprintf(`{"url":%q}`, url))).Normalise(); err != nil {
			t.Errorf("Normalise(url %s) = %v, want nil", url, err)
		}
	}
	for _, url := range []string{
		"", "/x", "//a/x", "a.example", "ftp://a/", "file:///etc/passwd", "http:", "http:a", "http://", "http:///x", "https://:443/", "http://?x", "HTTP //a", "javascript:alert(1)",
		"http://me@a/", "http://me:secret@a/", "http://me:secret@a:80@b/", "http://a:0/", "http://a:/", "http://a:65536/", "http://a:http/", "http://a/#x", "http://a/#",
		"http://a b/", "http://a/b c", "http://a/\tb", " http://a/", "http://a/\n", "http://[fe80::1%25eth0]/", "http://[::1/", "http://./",
		"http://2130706433/", "http://127.1/", "http://0177.0.0.1/", "http://0x7f000001/", "http://a.0x7f/", "http://256.1.1.1/", "http://1.2.3/", "https://" + strings.Repeat("a.", 127) + "a/", "https://a/" + strings.Repeat("x", 2000),
	} {
		_, err := parse(t, one("http", fmt.Sprintf(`{"url":%q}`, url))).Normalise()
		if err == nil {
			t.Errorf("Normalise(url %q) = nil, want an error", url)
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("Normalise(url %q) = %v, which repeats it", url, err)
		}
	}
}
