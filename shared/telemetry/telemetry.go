package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

// Config has the facts about the process that [Setup] needs.
type Config struct {
	Service    string              // "nofx-gateway" or "nofx-worker", unless OTEL_SERVICE_NAME is set
	Version    string              // of the build
	InstanceID string              // of this process
	Env        func(string) string // os.Getenv outside tests
	Log        *slog.Logger
	Metrics    *Metrics  // counts dropped spans
	Redactor   *Redactor // of names and values of spans
}

// flushTimeout limits the export of remaining spans at the end of a process.
const flushTimeout = 5 * time.Second

// Setup makes the process's tracer provider and propagator the global ones, which the
// OpenTelemetry API then uses, and returns a function that flushes and stops them within 5
// s. It fails on unknown OTEL_* values instead of guessing.
//
// Spans are sampled as OTEL_TRACES_SAMPLER says, all by default, and exported when
// OTEL_TRACES_EXPORTER is otlp or an OTLP endpoint is set. Spans that are not exported cost
// an allocation or two and have ids that can be stored in rows.
func Setup(ctx context.Context, cfg Config) (stop func(context.Context) error, err error) {
	provider, err := newProvider(ctx, cfg)
	if err != nil {
		return nil, err
	}
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(w3c)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		cfg.Log.Warn("telemetry", "error", err)
	}))
	return func(ctx context.Context) error { return shutdown(ctx, provider) }, nil
}

func shutdown(ctx context.Context, provider *sdktrace.TracerProvider) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return provider.Shutdown(ctx)
}

func newProvider(ctx context.Context, cfg Config) (*sdktrace.TracerProvider, error) {
	sampler, err := samplerFrom(cfg.Env)
	if err != nil {
		return nil, err
	}
	res, err := resourceFrom(ctx, cfg)
	if err != nil {
		return nil, err
	}
	target, err := exportTargetFrom(cfg.Env)
	if err != nil {
		return nil, err
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithSampler(sampler), sdktrace.WithResource(res)}
	if target.protocol == "" {
		// Nothing exports these spans, so only their ids are kept.
		options = append(options, sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{}))
		cfg.Log.InfoContext(ctx, "traces are not exported")
	} else {
		exporter, err := target.exporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("make the OTLP exporter: %w", err)
		}
		options = append(options, sdktrace.WithRawSpanLimits(spanLimits),
			sdktrace.WithSpanProcessor(newQueue(exporter, cfg)))
		cfg.Log.InfoContext(ctx, "traces are exported", "protocol", target.protocol, "endpoint", target.endpoint)
	}
	return sdktrace.NewTracerProvider(options...), nil
}

// spanLimits keep a trace within what stores accept (OBSERVABILITY.md §1.1).
var spanLimits = sdktrace.SpanLimits{
	AttributeValueLengthLimit:   4096,
	AttributeCountLimit:         64,
	EventCountLimit:             20,
	LinkCountLimit:              32,
	AttributePerEventCountLimit: 16,
	AttributePerLinkCountLimit:  8,
}

func samplerFrom(env func(string) string) (sdktrace.Sampler, error) {
	ratio := 1.0
	if arg := strings.TrimSpace(env("OTEL_TRACES_SAMPLER_ARG")); arg != "" {
		var err error
		if ratio, err = strconv.ParseFloat(arg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG %q: want a number from 0 to 1", arg)
		}
	}
	switch name := strings.TrimSpace(env("OTEL_TRACES_SAMPLER")); name {
	case "", "parentbased_traceidratio":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)), nil
	case "traceidratio":
		return sdktrace.TraceIDRatioBased(ratio), nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	default:
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER %q: want [parentbased_]traceidratio, [parentbased_]always_on or [parentbased_]always_off", name)
	}
}

// resourceFrom returns the resource of the spans: the process's own attributes, overridden
// by OTEL_RESOURCE_ATTRIBUTES, overridden by OTEL_SERVICE_NAME.
func resourceFrom(ctx context.Context, cfg Config) (*resource.Resource, error) {
	kv := []attribute.KeyValue{
		semconv.ServiceName(cfg.Service),
		semconv.ServiceVersion(cfg.Version),
		semconv.ServiceInstanceID(cfg.InstanceID),
		semconv.DeploymentEnvironmentName(cmp.Or(cfg.Env("NOFX_ENV"), "production")),
	}
	for pair := range strings.SplitSeq(cfg.Env("OTEL_RESOURCE_ATTRIBUTES"), ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, encoded, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(encoded))
		if key = strings.TrimSpace(key); !ok || key == "" || err != nil {
			return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES: want key=value, separated by commas and percent-encoded")
		}
		kv = append(kv, attribute.String(key, value))
	}
	if name := cfg.Env("OTEL_SERVICE_NAME"); name != "" {
		kv = append(kv, semconv.ServiceName(name))
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(kv...))
	if err != nil {
		return nil, fmt.Errorf("describe the process to traces: %w", err)
	}
	return res, nil
}
