package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	jsonexp "github.com/go-json-experiment/json"
)

// MaxHosts is how many hosts a plan may ask for, and a tenant may grant.
const MaxHosts = 64

// noNetwork is the word for a network without hosts.
const noNetwork = "none"

// Network is what the code of a plan's steps may reach: nothing, which is the word "none" in
// a plan, or hosts.
type Network struct {
	Word  string   // given in the place of an object
	Hosts []string // as Host returns them, in a normalised plan
}

// networkHosts is a Network as an object.
type networkHosts struct {
	Hosts []string `json:"hosts"`
}

// UnmarshalJSON reads a word, or an object without unknown members.
func (n *Network) UnmarshalJSON(raw []byte) error {
	*n = Network{}
	if string(raw) == `""` {
		return errors.New("a network has a word, or hosts")
	}
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &n.Word)
	}
	var of networkHosts
	if err := jsonexp.Unmarshal(raw, &of, Strict); err != nil {
		return err
	}
	n.Hosts = of.Hosts
	return nil
}

// MarshalJSON writes n as UnmarshalJSON reads it.
func (n Network) MarshalJSON() ([]byte, error) {
	if n.Word != "" {
		return json.Marshal(n.Word)
	}
	return json.Marshal(networkHosts{n.Hosts})
}

// hostLabel is a part of a host's name. Names of services have underscores.
var hostLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// hostNumber is a last label with which resolvers take a name for an IPv4 address.
var hostNumber = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)

// Host returns a host that a plan asks for, or a tenant grants, in the one form NAME:PORT in
// which hosts are compared, or why it cannot be one. The port is 443 by default. A name whose
// first label is * stands for all names below the rest, at any depth.
func Host(text string) (host, bad string) {
	name, port := text, "443"
	if i := strings.IndexByte(text, ':'); i >= 0 {
		name, port = text[:i], text[i+1:]
	}
	if _, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil || strings.HasPrefix(text, "[") {
		return "", "is an IP address; give the name of the host"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", "must be NAME or NAME:PORT, for example \"proxy.example.com:443\", with a port from 1 to 65535 and no scheme or path"
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	below, wild := strings.CutPrefix(name, "*.")
	labels := strings.Split(below, ".")
	switch {
	case strings.Contains(below, "*"):
		return "", "has a * that is not its whole first label, as in \"*.example.com\""
	case len(below) > 253:
		return "", fmt.Sprintf("has a name of %d characters; at most 253", len(below))
	case !slices.ContainsFunc(labels, func(l string) bool { return !hostLabel.MatchString(l) }):
	case strings.IndexFunc(below, func(r rune) bool { return r > 0x7f }) >= 0:
		return "", "has a name that is not ASCII; give the form that begins with xn--"
	default:
		return "", "has no name of a host: labels of 1 to 63 letters, digits, '-' and '_', with dots between them"
	}
	switch last := labels[len(labels)-1]; {
	case hostNumber.MatchString(last):
		return "", "is an IP address; give the name of the host"
	case last == "localhost":
		return "", "is the step itself: localhost needs no network"
	case wild && len(labels) < 2:
		return "", "stands for all of a top-level domain; give at least two labels after the *"
	}
	return name + ":" + port, ""
}

// CoversHost reports whether one host, in the form of [Host], stands for another.
func CoversHost(wide, host string) bool {
	name, port, _ := strings.Cut(wide, ":")
	suffix, wild := strings.CutPrefix(name, "*")
	asked, at, _ := strings.Cut(host, ":")
	if port != at {
		return false
	}
	return asked == name || wild && strings.HasSuffix(asked, suffix)
}

// Ungranted returns the places of the hosts that are not among those granted.
func Ungranted(hosts, granted []string) (places []int) {
	for i, host := range hosts {
		if !slices.ContainsFunc(granted, func(wide string) bool { return CoversHost(wide, host) }) {
			places = append(places, i)
		}
	}
	return places
}

// Hosts returns a list of hosts in the form of [Host]. For each that cannot be one it calls
// bad, with its place; with -1 when the whole list is wrong.
func Hosts(texts []string, bad func(place int, detail string)) []string {
	if len(texts) > MaxHosts {
		bad(-1, fmt.Sprintf("%d hosts; at most %d", len(texts), MaxHosts))
		return texts
	}
	hosts := make([]string, len(texts))
	for i, text := range texts {
		host, detail := Host(text)
		if j := slices.Index(hosts[:i], host); detail == "" && j >= 0 {
			detail = fmt.Sprintf("%q is also host %d", host, j)
		} else if detail != "" {
			detail = fmt.Sprintf("%.80q %s", text, detail)
		}
		if detail != "" {
			bad(i, detail)
			continue
		}
		hosts[i] = host
	}
	return hosts
}

// network checks a network and returns it as it is stored.
func (c *checker) network(n *Network) *Network {
	const at = "/plan/policy/network"
	switch {
	case n == nil || n.Word == noNetwork:
		return n
	case n.Word != "":
		c.add(at, fmt.Sprintf("%.80q; it must be \"none\", or an object such as {\"hosts\": [\"proxy.example.com:443\"]}", n.Word))
		return n
	case len(n.Hosts) == 0:
		c.add(at+"/hosts", "names no host; a plan without a network leaves network out, or has \"none\"")
		return n
	}
	c.list(at+"/hosts", n.Hosts)
	return &Network{Hosts: Hosts(n.Hosts, func(place int, detail string) {
		if place < 0 {
			c.add(at+"/hosts", detail)
			return
		}
		c.add(at+"/hosts/"+strconv.Itoa(place), detail)
	})}
}

// hosts returns what the code of a plan's steps may reach.
func (p Plan) hosts() []string {
	if p.Policy == nil || p.Policy.Network == nil {
		return nil
	}
	return p.Policy.Network.Hosts
}
