// Package httpapi is the gateway's HTTP API: gateway/api/openapi.yaml as
// handlers, one file per noun.
//
// A request passes these layers, from outside in: package identity identifies the caller
// (auth.go), before the span begins, since an unknown caller must not choose the trace;
// otelhttp begins the span; [Server.observe] does all that answers have in common
// (trace.go); [Server.operate] checks the operation's rule, rates and deadline (server.go);
// a handler answers. A handler reads its input strictly (json.go, query.go), calls one
// method of shared/postgres and writes the types of gateway/api. It returns an error for
// everything else, which problem.go describes for clients and failure.go writes in the form
// that the operation asks for.
//
// Start at operation.go, which lists the operations. A new one is a row there and a handler.
package httpapi
