package egress

import (
	"net/netip"
	"slices"
)

// inside are the IPv4 addresses that are not of the public internet (IANA's
// special-purpose registry), and one that is and must not be reached.
var inside = prefixes(
	"0.0.0.0/8",        // this host
	"10.0.0.0/8",       // private
	"100.64.0.0/10",    // carrier-grade NAT
	"127.0.0.0/8",      // loopback
	"168.63.129.16/32", // the platform behind a virtual machine of Azure
	"169.254.0.0/16",   // link-local, with the clouds' metadata
	"172.16.0.0/12",    // private
	"192.0.0.0/24",     // protocol assignments
	"192.0.2.0/24",     // documentation
	"192.88.99.0/24",   // 6to4 relays
	"192.168.0.0/16",   // private
	"198.18.0.0/15",    // benchmarks
	"198.51.100.0/24",  // documentation
	"203.0.113.0/24",   // documentation
	"224.0.0.0/4",      // multicast
	"240.0.0.0/4",      // reserved, broadcast
)

// Of IPv6 only global unicast is public, and of that not what carries an IPv4
// address or leads nowhere. Loopback, unspecified, IPv4-mapped, NAT64, unique
// local, link-local and multicast are all outside of it.
var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	inside6       = prefixes(
		"2001::/23",     // protocol assignments, Teredo among them
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4
		"3fff::/20",     // documentation
	)
)

func prefixes(list ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(list))
	for i, s := range list {
		all[i] = netip.MustParsePrefix(s)
	}
	return all
}

// public reports whether a is an address of the public internet.
func public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	holds := func(p netip.Prefix) bool { return p.Contains(a) }
	if a.Is4() {
		return !slices.ContainsFunc(inside, holds)
	}
	return globalUnicast.Contains(a) && !slices.ContainsFunc(inside6, holds)
}
