package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// exportTarget is where spans go; without a protocol, nowhere.
type exportTarget struct {
	protocol string // grpc or http/protobuf
	endpoint string // a URL, the whole one
}

// exportTargetFrom reads the OTEL_* variables that decide whether spans are
// exported, how and where. Headers, certificates, compression and timeouts are
// read by the exporters themselves, from the process's environment.
func exportTargetFrom(env func(string) string) (exportTarget, error) {
	base := strings.TrimSpace(env("OTEL_EXPORTER_OTLP_ENDPOINT"))
	traces := strings.TrimSpace(env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
	switch name := strings.TrimSpace(env("OTEL_TRACES_EXPORTER")); {
	case strings.EqualFold(env("OTEL_SDK_DISABLED"), "true"), name == "none", name == "" && base == "" && traces == "":
		return exportTarget{}, nil
	case name != "" && name != "otlp":
		return exportTarget{}, fmt.Errorf("OTEL_TRACES_EXPORTER %q: want otlp or none", name)
	}
	t := exportTarget{
		protocol: cmp.Or(env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), env("OTEL_EXPORTER_OTLP_PROTOCOL"), "http/protobuf"),
		endpoint: cmp.Or(traces, base),
	}
	switch t.protocol {
	case "grpc":
		t.endpoint = cmp.Or(t.endpoint, "http://localhost:4317")
	case "http/protobuf":
		t.endpoint = cmp.Or(t.endpoint, "http://localhost:4318")
		if traces == "" { // the base of all signals, so the signal's path follows
			t.endpoint = strings.TrimRight(t.endpoint, "/") + "/v1/traces"
		}
	default:
		return exportTarget{}, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL %q: want grpc or http/protobuf", t.protocol)
	}
	// The value is not repeated: it may hold a password.
	if u, err := url.Parse(t.endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return exportTarget{}, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT: want an http:// or https:// URL")
	}
	return t, nil
}

// exporter connects lazily, so it also works while the receiver is down.
func (t exportTarget) exporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	if t.protocol == "grpc" {
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(t.endpoint))
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(t.endpoint))
}
