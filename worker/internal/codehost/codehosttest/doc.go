// Package codehosttest has a strict forge for tests, with two faces: the REST and GraphQL
// API of GitHub, for the real MCP server, and MCP servers in this process that behave as
// the real ones do, for both of their generations. Bitbucket is the same for its own API and
// server.
//
// It takes a comment only on lines that git's own diff shows, within one hunk.
package codehosttest
