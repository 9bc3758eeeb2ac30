package run_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"nofx.dev/shared/run"
)

func TestHost(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"modules.example.org":       "modules.example.org:443",
		"Modules.EXAMPLE.org.:8443": "modules.example.org:8443",
		"*.example.com":             "*.example.com:443",
		"mirror:80":                 "mirror:80",
		"_srv.my-host.example:1":    "_srv.my-host.example:1",
		"xn--bcher-kva.example":     "xn--bcher-kva.example:443",
		"1.2.3.example:65535":       "1.2.3.example:65535",
		"":                          "no name of a host",
		":443":                      "no name of a host",
		"a..b":                      "no name of a host",
		"-a.example":                "no name of a host",
		"a b.example":               "no name of a host",
		"a.example\n":               "no name of a host",
		"user@a.example":            "no name of a host",
		"a.example/path":            "no name of a host",
		"https://a.example":         "must be NAME or NAME:PORT",
		"a.example:":                "must be NAME or NAME:PORT",
		"a.example:0":               "must be NAME or NAME:PORT",
		"a.example:65536":           "must be NAME or NAME:PORT",
		"a.example:0443":            "must be NAME or NAME:PORT",
		"a.example:+443":            "must be NAME or NAME:PORT",
		"a.example:https":           "must be NAME or NAME:PORT",
		"a.example:443:80":          "must be NAME or NAME:PORT",
		"bücher.example":            "xn--",
		"10.0.0.1":                  "IP address",
		"93.184.216.34:443":         "IP address",
		"169.254.169.254:80":        "IP address",
		"2130706433":                "IP address",
		"0x7f000001":                "IP address",
		"127.1:443":                 "IP address",
		"0x7f.0.0.0x1":              "IP address",
		"::1":                       "IP address",
		"[::1]:443":                 "IP address",
		"::ffff:127.0.0.1":          "IP address",
		"fe80::1%eth0":              "IP address",
		"localhost:8080":            "localhost needs no network",
		"a.localhost":               "localhost needs no network",
		"*":                         "not its whole first label",
		"*:443":                     "not its whole first label",
		"a.*.example":               "not its whole first label",
		"a*.example.com":            "not its whole first label",
		"*.*.example.com":           "not its whole first label",
		"*.com":                     "top-level domain",
		strings.Repeat("a", 64):     "no name of a host",
		strings.Repeat("a.", 130):   "at most 253",
	} {
		host, bad := run.Host(text)
		switch {
		case bad == "" && host != want:
			t.Errorf("Host(%q) = %q, want %q", text, host, want)
		case bad != "" && !strings.Contains(bad, want):
			t.Errorf("Host(%q) is refused because it %s, want %q", text, bad, want)
		}
	}
}

// A wildcard stands for what is below it, at its port, and for nothing else.
func TestUngranted(t *testing.T) {
	t.Parallel()
	granted := []string{"a.example:443", "*.b.example:443", "*.c.example:8080"}
	for host, want := range map[string]bool{
		"a.example:443": true, "x.b.example:443": true, "x.y.b.example:443": true, "*.b.example:443": true, "*.x.b.example:443": true, "x.c.example:8080": true,
		"a.example:80": false, "x.a.example:443": false, "*.a.example:443": false, "b.example:443": false, "xb.example:443": false, "x.c.example:443": false,
		"*.example:443": false, "b.example.evil:443": false, "d.example:443": false,
	} {
		if got := len(run.Ungranted([]string{host}, granted)) == 0; got != want {
			t.Errorf("Ungranted(%s) = nothing is %v, want %v", host, got, want)
		}
	}
	if got := run.Ungranted([]string{"a.example:443", "d.example:443", "e.example:443"}, granted); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("Ungranted() = %v, want [1 2]", got)
	}
	if got := run.Ungranted([]string{"a.example:443"}, nil); len(got) != 1 {
		t.Errorf("Ungranted() with nothing granted = %v, want [0]", got)
	}
}

// Hosts reach the specs of steps that run code of the plan, in one form, and no others. The
// plan that was given stays as it is.
func TestPlanNetwork(t *testing.T) {
	t.Parallel()
	const steps = `"steps":[{"name":"a","tool":"bash","inputs":{"script":"true"}},{"name":"b","tool":"gate:unit","inputs":{"command":"true"}},
		{"name":"c","tool":"git:checkout","inputs":{"url":"https://h/x"}},{"name":"d","tool":"http","inputs":{"url":"https://h/x"}},{"name":"e","tool":"codegen","inputs":{"instruction":"x"}}]}`
	given := parse(t, `{"goal":"g","policy":{"network":{"hosts":["A.example","*.b.example:8080"]}},`+steps)
	p, err := given.Normalise()
	if err != nil {
		t.Fatalf("Normalise() = %v, want nil", err)
	}
	for i, want := range []string{"[a.example:443 *.b.example:8080]", "[a.example:443 *.b.example:8080]", "[]", "[]", "[]"} {
		if got := fmt.Sprint(p.Spec(i).Hosts); got != want {
			t.Errorf("Spec(%s).Hosts = %s, want %s", p.Steps[i].Name, got, want)
		}
	}
	if got := given.Policy.Network.Hosts[0]; got != "A.example" {
		t.Errorf("after Normalise() the plan given has the host %s, want A.example", got)
	}
	raw, err := json.Marshal(p.Policy)
	if want := `{"network":{"hosts":["a.example:443","*.b.example:8080"]}}`; err != nil || string(raw) != want {
		t.Errorf("Marshal() = %s, %v, want %s", raw, err, want)
	}
	for doc, want := range map[string]string{`"none"`: `{"network":"none"}`, `null`: `{}`} {
		p, err := parse(t, `{"goal":"g","policy":{"network":`+doc+`},`+steps).Normalise()
		if raw, _ := json.Marshal(p.Policy); err != nil || string(raw) != want || p.Spec(0).Hosts != nil {
			t.Errorf("Normalise() of network %s = %s, %v, hosts %v; want %s and no hosts", doc, raw, err, p.Spec(0).Hosts, want)
		}
	}
}

// A network of another form is said to be one, at its place.
func TestNetworkMisfits(t *testing.T) {
	t.Parallel()
	for doc, want := range map[string]string{
		`1`:                          `/policy/network: is a number; it must be an object, for example {"hosts": ["proxy.example.com:443"]}`,
		`""`:                         `/policy/network: is a string; it must be an object, for example {"hosts": ["proxy.example.com:443"]}`,
		`["a.example"]`:              `/policy/network: is a list; it must be an object, for example {"hosts": ["proxy.example.com:443"]}`,
		`{"host":["a.example"]}`:     `/policy/network/host: unknown field; did you mean "hosts"? There are: hosts`,
		`{"hosts":"a.example"}`:      `/policy/network/hosts: is a string; it must be a list of strings, for example ["a.example"]`,
		`{"hosts":["a.example", 1]}`: `/policy/network/hosts/1: is a number; it must be a string, for example "1"`,
	} {
		var p run.Plan
		got := run.Fit([]byte(`{"goal":"g","steps":[],"policy":{"network":`+doc+`}}`), &p)
		if len(got) != 1 || got[0].Pointer+": "+got[0].Detail != want {
			t.Errorf("Fit(network %s) = %v, want %s", doc, got, want)
		}
	}
	var p run.Plan
	if err := json.Unmarshal([]byte(`{"policy":{"network":{"hosts":["a"],"x":1}}}`), &p); err == nil {
		t.Error("Unmarshal() of an unknown member = nil, want an error")
	}
}
