// Package httpapi is the gateway's HTTP API: gateway/api/openapi.yaml as
// handlers, one file per noun.
//
// A request passes, from outside in: who is asking (auth.go asks package identity, before
// the span is begun, since a stranger must not choose the trace), otelhttp, then what every
// answer has in common (trace.go), then the one check of what the caller may
// ([Server.operate]: rule, rates, deadline), then a handler. A handler reads its
// input strictly (json.go, query.go), calls one method of shared/postgres and writes
// the types of gateway/api. It returns an error for everything else: problem.go says what
// it means to a client, failure.go writes it in the form that the operation asks for.
//
// Start at operation.go, which lists the operations: each is one row.
package httpapi
