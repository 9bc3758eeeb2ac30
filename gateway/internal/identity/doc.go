// Package identity finds out who makes a request. It knows neither routes nor how an
// answer looks, so that the API and pages share it: it returns a [Principal] or an error
// of package fault, and its users decide what the principal is needed for.
//
// [Authenticator.Identify] is the one place that knows all ways to authenticate: a
// new one is a case there and a file of its own. Today there is one, API keys
// (keyring.go), which are given as tokens (token.go). [Principal.Allow] compares roles and
// scopes. address.go finds the client's address, by which failed tries are counted.
package identity
