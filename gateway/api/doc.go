// Package api is the contract of the gateway's HTTP API and what is generated
// from it.
//
// openapi.yaml, written by hand, is the one place that says which routes there
// are, who may call them, what they take and what they answer. api.gen.go holds
// the Go types of its schemas, used by the gateway's handlers, and a client,
// used by the command line tool and by the tests that look at a deployment from
// outside. There is no generated server: handlers are by hand, and a test of
// gateway/internal/httpapi compares every route and every answer with
// [Contract].
//
// Of the client, use [ClientWithResponses] for JSON and [Client] for streams,
// since the former reads an answer to its end; [FrameReader] takes the frames from
// its body. Every refusal is a [Problem].
// codegen/overlay.yaml lists what the generator is shown otherwise than the
// contract says it.
package api

import _ "embed"

//go:generate env GOWORK=off go tool -modfile=codegen/go.mod oapi-codegen -config codegen/config.yaml openapi.yaml

// Contract is openapi.yaml, as served at /api/openapi.yaml.
//
//go:embed openapi.yaml
var Contract []byte
