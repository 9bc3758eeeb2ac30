package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
)

// Attribute keys of spans, beyond the semantic conventions (OBSERVABILITY.md §1.4).
const (
	TenantIDKey         = attribute.Key("nofx.tenant.id")
	RunIDKey            = attribute.Key("nofx.run.id")
	ParentRunIDKey      = attribute.Key("nofx.parent_run.id")
	StepIDKey           = attribute.Key("nofx.step.id")
	StepNameKey         = attribute.Key("nofx.step.name")
	ToolKey             = attribute.Key("nofx.tool")
	OutcomeKey          = attribute.Key("nofx.outcome")
	AttemptKey          = attribute.Key("nofx.attempt")
	FenceKey            = attribute.Key("nofx.fence")
	JobKindKey          = attribute.Key("nofx.job.kind")
	QueueWaitKey        = attribute.Key("nofx.queue.wait_ms")
	CheckpointKindKey   = attribute.Key("nofx.checkpoint.kind")
	VerdictKey          = attribute.Key("nofx.verdict")
	TierKey             = attribute.Key("nofx.sandbox.tier")
	ExitCodeKey         = attribute.Key("nofx.exit_code")
	CPUKey              = attribute.Key("nofx.cpu_ms")
	PeakBytesKey        = attribute.Key("nofx.peak_bytes")
	IdempotentReplayKey = attribute.Key("nofx.idempotent_replay")

	// Attributes of the stages of a review, and of calls to MCP servers.
	ChunksKey    = attribute.Key("nofx.review.chunks")
	FindingsKey  = attribute.Key("nofx.review.findings")
	PostedKey    = attribute.Key("nofx.review.posted")
	ResolvedKey  = attribute.Key("nofx.review.resolved")
	MCPServerKey = attribute.Key("nofx.mcp.server")
	MCPToolKey   = attribute.Key("nofx.mcp.tool")
	MCPErrorKey  = attribute.Key("nofx.mcp.is_error")

	// Attributes of requests that steps make; otelhttp sets those of API requests.
	HTTPMethodKey    = attribute.Key("http.request.method")
	HTTPStatusKey    = attribute.Key("http.response.status_code")
	ServerAddressKey = attribute.Key("server.address")

	// Attributes of calls to models, from the semantic conventions for generative AI.
	GenAIOperationKey     = attribute.Key("gen_ai.operation.name")
	GenAIProviderKey      = attribute.Key("gen_ai.provider.name")
	GenAIRequestModelKey  = attribute.Key("gen_ai.request.model")
	GenAIResponseModelKey = attribute.Key("gen_ai.response.model")
	GenAIMaxTokensKey     = attribute.Key("gen_ai.request.max_tokens")
	GenAIFinishReasonsKey = attribute.Key("gen_ai.response.finish_reasons")
	GenAIInputTokensKey   = attribute.Key("gen_ai.usage.input_tokens")
	GenAIOutputTokensKey  = attribute.Key("gen_ai.usage.output_tokens")
	GenAICachedTokensKey  = attribute.Key("gen_ai.usage.cache_read.input_tokens")
	ErrorTypeKey          = attribute.Key("error.type")

	messagingSystemKey    = attribute.Key("messaging.system")
	messagingQueueKey     = attribute.Key("messaging.destination.name")
	messagingBatchKey     = attribute.Key("messaging.batch.message_count")
	messagingMessageKey   = attribute.Key("messaging.message.id")
	messagingOperationKey = attribute.Key("messaging.operation.type")
)

// scopeAttributes returns the attributes common to all spans under ctx.
func scopeAttributes(ctx context.Context) []attribute.KeyValue {
	var kv []attribute.KeyValue
	s := scopeOf(ctx)
	for key, value := range map[attribute.Key]string{TenantIDKey: s.TenantID, RunIDKey: s.RunID, StepIDKey: s.StepID} {
		if value != "" {
			kv = append(kv, key.String(value))
		}
	}
	return kv
}
