// Package egress makes every HTTP client of the worker, so that nothing a plan,
// a repository or a model says leads a request into the network the worker
// stands in (SECURITY.md §10).
//
// What is asked for by name is checked by address: a connection is refused when
// the address that it would really be made to is not one of the public internet,
// whatever name, spelling, redirect or later answer of a name server led there.
// The administrator's list opens single ports of single hosts. Redirects stay
// with their scheme, host and port, so that no header reaches anybody else, and
// never turn an effect into a GET ([Unfollowed]); proxies of the environment are
// ignored; TLS is 1.2 at the least.
//
// What a step's own code may reach of the network leads through a [Proxy] of its own, which
// connects as the clients do, and only to the hosts that it was given.
//
// A client has no time limit of its own: the context of each request has.
package egress
