package tool

import (
	"context"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/sandbox"
	"nofx.dev/worker/internal/sandbox/sandboxtest"
)

// loopbackNames resolves every name to 127.0.0.1.
func loopbackNames() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { // ends when the resolver closes its end
			defer server.Close()
			var size [2]byte
			for {
				if _, err := io.ReadFull(server, size[:]); err != nil {
					return
				}
				raw := make([]byte, binary.BigEndian.Uint16(size[:]))
				var m dnsmessage.Message
				if _, err := io.ReadFull(server, raw); err != nil || m.Unpack(raw) != nil {
					return
				}
				m.Response, m.Additionals = true, nil
				if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
					m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
				}
				out, err := m.AppendPack(make([]byte, 2))
				if err != nil {
					return
				}
				binary.BigEndian.PutUint16(out, uint16(len(out)-2))
				if _, err := server.Write(out); err != nil {
					return
				}
			}
		}()
		return client, nil
	}}
}

// online returns a Box whose steps run in tier 2, for which names lead to this machine, and
// which may reach these places of it.
func online(t *testing.T, tried func(egress.Result), places ...string) *Box {
	t.Helper()
	allow, err := egress.ParseAllow(places)
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{
		Sandbox: sandboxtest.Open(t, sandbox.Config{MaxTier: 2}),
		Network: egress.ProxyConfig{Config: egress.Config{Allow: allow, Resolver: loopbackNames()}, Tried: tried},
	})
}

// secureHost is a host example.com with TLS, that answers with what was asked of it.
func secureHost(t *testing.T) (place string, certificate []byte, hits *atomic.Int64) {
	t.Helper()
	hits = &atomic.Int64{}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		fmt.Fprintln(w, "host answers", r.URL)
	}))
	t.Cleanup(s.Close)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return "example.com:" + port, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), hits
}

// S27, S31: code of a step reaches the hosts that its plan asks for, by HTTP and TLS, and by no
// way any other: no other host, no address, nothing beside the proxy. Its log tells of that
// without paths.
func TestS27_StepReachesItsHosts(t *testing.T) {
	t.Parallel()
	place, certificate, hits := secureHost(t)
	_, port, _ := strings.Cut(place, ":")
	var mu sync.Mutex
	results := map[egress.Result]int{}
	b := online(t, func(r egress.Result) { mu.Lock(); results[r]++; mu.Unlock() }, place)
	c, log := newCall(t, "bash", run.BashInputs{Env: map[string]string{"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"}, Script: `
		get() { curl -sS --max-time 60 --cacert cert.pem "$@" 2>&1 | sed 's/ after [0-9]* ms//'; }
		get "https://` + place + `/path?token=canary"
		get "https://other.example:` + port + `/path?token=canary"
		get "https://inside.example:` + port + `/"
		get "http://inside.example:` + port + `/"; echo
		get "https://127.0.0.1:` + port + `/" --noproxy ''
		get "https://169.254.169.254/" --noproxy ''
		get "http://[::1]:` + port + `/" --noproxy ''; echo
		get "https://127.0.0.1:` + port + `/"
		get "https://` + place + `/" --noproxy '*'
		get "https://` + place + `/" --noproxy '*' --resolve "` + place + `:127.0.0.1"
		env | grep -i _proxy | sort`})
	c.Spec.Hosts = []string{place, "inside.example:" + port}
	writeTo(t, c.Workspace, "cert.pem", string(certificate))
	if r, err := b.Run(t.Context(), c); err != nil {
		t.Errorf("Run() = %+v, %v, want success", r, err)
	}
	for _, want := range []string{
		"host answers /path?token=canary\n",
		"CONNECT tunnel failed, response 403",
		"inside.example:" + port + ": its address is not one of the public internet",
		"what was asked for is an IP address",
		"Could not resolve host: example.com",
		"ALL_PROXY=http://127.0.0.1:3128\nHTTPS_PROXY=http://127.0.0.1:3128\nHTTP_PROXY=http://127.0.0.1:3128\nNO_PROXY=localhost,127.0.0.1,::1\n",
		"all_proxy=http://127.0.0.1:3128\nhttp_proxy=http://127.0.0.1:3128\nhttps_proxy=http://127.0.0.1:3128\nno_proxy=localhost,127.0.0.1,::1\n",
		"[nofx] network: allowed (connections: 1): " + place + ", ",
		"[nofx] network: refused (connections: 1): other.example:" + port + " is not in the plan's policy.network\n",
		"[nofx] network: refused (connections: 2): inside.example:" + port + ": ",
		"[nofx] network: refused (connections: 3): what was asked for is an IP address",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log has no %q", want)
		}
	}
	for line := range strings.Lines(log.String()) {
		if strings.HasPrefix(line, "[nofx]") && strings.Contains(line, "canary") {
			t.Errorf("line %q of the log has a path, want hosts alone", line)
		}
	}
	if hits.Load() != 1 {
		t.Errorf("the host was reached %d times, want once", hits.Load())
	}
	if results[egress.Allowed] != 1 || results[egress.Refused] != 6 || results[egress.Failed] != 0 {
		t.Errorf("results = %v, want 1 connection allowed and 6 refused", results)
	}
	if t.Failed() {
		t.Logf("log:\n%s", log)
	}
}

// S31: a step whose plan asks for no host has no network, whatever another one has.
func TestS31_NoHostsNoNetwork(t *testing.T) {
	t.Parallel()
	place, _, hits := secureHost(t)
	b := online(t, nil, place)
	for _, tool := range []string{"bash", "gate:unit"} {
		c, log := newCall(t, tool, map[string]string{map[string]string{"bash": "script", "gate:unit": "command"}[tool]: `
			env | grep -i _proxy || echo no variable
			curl -sSk -x http://127.0.0.1:3128 https://` + place + `/ 2>&1 || echo no proxy
			ls /run`})
		if _, err := b.Run(t.Context(), c); err != nil {
			t.Errorf("Run(%s) = %v, want success", tool, err)
		}
		if got := log.String(); !strings.Contains(got, "no variable\n") || !strings.HasSuffix(got, "no proxy\nnofx-sandbox\n") {
			t.Errorf("log of %s = %q, want neither variables nor a proxy", tool, got)
		}
	}
	if hits.Load() != 0 {
		t.Errorf("the host was reached %d times, want none", hits.Load())
	}
}

// A gate reaches the hosts of its plan as other code does.
func TestGateReachesItsHosts(t *testing.T) {
	t.Parallel()
	place, certificate, hits := secureHost(t)
	c, log := newCall(t, "gate:unit", run.GateInputs{Command: "curl -sS --cacert cert.pem https://" + place})
	c.Spec.Hosts = []string{place}
	writeTo(t, c.Workspace, "cert.pem", string(certificate))
	r, err := online(t, nil, place).Run(t.Context(), c)
	if err != nil || r.Verdict != run.Passed || hits.Load() != 1 {
		t.Errorf("Run() = %+v, %v, %d hits, log %q, want it passed", r, err, hits.Load(), log)
	}
	if strings.Contains(fmt.Sprint(r.Evidence["output"]), "[nofx]") {
		t.Errorf("evidence %v shows what the worker says, want the command's output", r.Evidence)
	}
}

// S31: below tier 2 there is no network, and the step says why instead of running without.
func TestS31_NetworkNeedsTier2(t *testing.T) {
	t.Parallel()
	for tier, b := range map[int]*Box{0: developer(Config{}), 1: New(Config{Sandbox: sandboxtest.Open(t, sandbox.Config{MaxTier: 1})})} {
		c, log := newCall(t, "bash", run.BashInputs{Script: "echo started"})
		c.Spec.Hosts = []string{"example.com:443"}
		_, err := b.Run(t.Context(), c)
		wantFailure(t, "Run()", err, run.ClassPolicy, fmt.Sprintf("needs a sandbox of tier 2, and that of this worker is of tier %d", tier))
		if log.String() != "" {
			t.Errorf("log = %q, want nothing: the script does not run", log)
		}
	}
}

// A connection ends with its step, also one that something of the step would keep.
func TestS31_ConnectionsEndWithTheStep(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	place := "example.com:" + port
	c, _ := newCall(t, "bash", run.BashInputs{Script: `
		exec 3<>/dev/tcp/127.0.0.1/3128; printf 'CONNECT ` + place + ` HTTP/1.1\r\n\r\n' >&3; read -r line <&3; echo "$line"
		setsid bash -c 'trap "" TERM HUP; echo kept >&3; sleep 1000' & disown; sleep 0`})
	c.Spec.Hosts = []string{place}
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.Copy(io.Discard, conn) // to its end
			_ = conn.Close()
		}
		ended <- err
	}()
	b := online(t, nil, place)
	if _, err := b.Run(t.Context(), c); err != nil {
		t.Errorf("Run() = %v, want success", err)
	}
	_ = l.Close()
	if err := <-ended; err != nil {
		t.Errorf("the host's connection = %v, want its end", err)
	}
}
