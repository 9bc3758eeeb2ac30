package tool

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/sandbox"
)

// proxyVars are the variables by which programs find the proxy of their step. Names without
// it are the step's own network.
var proxyVars = func() map[string]string {
	const proxy, own = "http://" + sandbox.ProxyAddress, "localhost,127.0.0.1,::1"
	return map[string]string{
		"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "ALL_PROXY": proxy, "NO_PROXY": own,
		"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": own,
	}
}()

// network is what a step reaches of the network.
type network struct {
	dir   string
	proxy *egress.Proxy
}

// openNetwork opens the way to the hosts that the plan of a call asks for, or returns nil where
// it asks for none. That they are granted is the caller's business.
func (b *Box) openNetwork(c Call) (*network, error) {
	if len(c.Spec.Hosts) == 0 {
		return nil, nil
	}
	if tier := b.Tier(); tier < sandbox.ProxyTier {
		return nil, Failuref(run.ClassPolicy, "the plan asks for a network (policy.network), which needs a sandbox of tier %d, and that of this worker is of tier %d; a retry cannot help before a worker's sandbox does",
			sandbox.ProxyTier, tier)
	}
	dir, err := os.MkdirTemp("", "nofx-net-") // short, as the path of a socket must be
	if err != nil {
		return nil, Failuref(run.ClassInfrastructure, "make a folder for the step's proxy: %w", err)
	}
	n := &network{dir: dir}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.socket(), Net: "unix"})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, Failuref(run.ClassInfrastructure, "listen for the step's proxy: %w", err)
	}
	cfg := b.cfg.Network
	cfg.Hosts = c.Spec.Hosts
	n.proxy = egress.ServeProxy(l, cfg)
	return n, nil
}

// socket returns the path of the proxy's socket, "" without a network.
func (n *network) socket() string {
	if n == nil {
		return ""
	}
	return filepath.Join(n.dir, "proxy")
}

// close ends all connections and writes to the step's log what there were: no more than host,
// port, result and bytes.
func (n *network) close(c Call) {
	if n == nil {
		return
	}
	for _, v := range n.proxy.Close() {
		what := v.Why // it names the host, where that may be shown
		if v.Result == egress.Allowed {
			sent, received := v.Bytes()
			what = fmt.Sprintf("%s, %d bytes sent, %d received", v.Host, sent, received)
		}
		fmt.Fprintf(c.Log, "[nofx] network: %s (connections: %d): %s\n", v.Result, v.Connections, what)
	}
	_ = os.RemoveAll(n.dir)
}
