// Package identity finds out who makes a request. It knows neither routes nor how an
// answer looks, so that the API and pages share it: it returns a [Principal] or an error
// of package fault, and its users decide what the principal is needed for.
//
// [Authenticator.Identify] is the one place that knows all ways to authenticate: a
// new one is a case there and a file of its own. There are API keys (keyring.go), whose text
// token.go makes and reads, and the tokens that other issuers sign (jwt.go), with their keys
// (jwks.go): of users of a Supabase project (supabase.go) and of GitHub workflows whose
// repositories are trusted (oidc.go). A ticket (ticket.go) opens one stream for any of them,
// where no header can be sent. memo.go keeps what the database
// said for 4 s, so that a revocation holds within 5 s. [Principal.Allow] compares roles and
// scopes. address.go finds the client's address, by which failed tries are counted (tries.go).
package identity
