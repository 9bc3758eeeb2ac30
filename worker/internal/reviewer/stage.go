package reviewer

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
)

// Stage begins the span of a stage of a review. end takes the error that the stage ends with,
// and numbers that say what came of it: no text of the change and no path, which are others'.
func Stage(ctx context.Context, name string) (_ context.Context, end func(err error, of ...attribute.KeyValue)) {
	ctx, span := otel.Tracer("nofx.dev/worker/internal/reviewer").Start(ctx, "review."+name)
	return ctx, func(err error, of ...attribute.KeyValue) {
		defer span.End()
		span.SetAttributes(of...)
		if err == nil || ctx.Err() != nil || fault.KindOf(err) == fault.Fenced {
			return // what was broken off has not failed
		}
		code := "other"
		if e, ok := errors.AsType[*fault.Error](err); ok {
			code = e.Code
		}
		span.SetAttributes(telemetry.ErrorTypeKey.String(code))
		span.SetStatus(codes.Error, code)
	}
}
