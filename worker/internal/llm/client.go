package llm

import (
	"context"
	"errors"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
)

// How a model is tried, unless Config says otherwise.
const (
	tries      = 3
	tryLimit   = 5 * time.Minute
	firstPause = time.Second
	longPause  = time.Minute // whoever is told to wait longer does not wait here
)

// Config is what a Client works with.
type Config struct {
	Provider string  // its name on spans and metrics
	Models   []Model // what may be asked for; the first is the default
	Fallback Model   // asked when another does not answer; nil for none
	Prices   Prices
	Free     bool // the models use no tokens: budgets may turn them off, and have nothing to count
	Metrics  *telemetry.Metrics

	TryLimit time.Duration // of one try; 5 min by default
	Pause    time.Duration // before the second try, about; 1 s by default
}

// Client gives out models that are tried, watched and counted. It is safe for
// concurrent use.
type Client struct{ cfg Config }

// NewClient makes a Client of at least one model.
func NewClient(cfg Config) *Client {
	if cfg.TryLimit == 0 {
		cfg.TryLimit = tryLimit
	}
	if cfg.Pause == 0 {
		cfg.Pause = firstPause
	}
	return &Client{cfg}
}

// Provider returns the name of the provider that answers.
func (c *Client) Provider() string { return c.cfg.Provider }

// Model returns the model of that name, or the default for "", within a budget. Its
// Complete tries three times where the provider is busy, down or silent, and then
// the fallback as often; the budget is asked before each try. One that is not offered is fault.Forbidden.
func (c *Client) Model(name string, b *Budget) (Model, error) {
	i := slices.IndexFunc(c.cfg.Models, func(m Model) bool { return name == "" || m.Name() == name })
	if i < 0 {
		names := make([]string, len(c.cfg.Models))
		for i, m := range c.cfg.Models {
			names[i] = m.Name()
		}
		return nil, fault.New(fault.Forbidden, "model-not-offered", "model %q is not offered by this worker; it has %s", name, strings.Join(names, ", "))
	}
	return &budgeted{c, c.cfg.Models[i], b}, nil
}

// budgeted is a model as a Client gives it out.
type budgeted struct {
	client *Client
	model  Model
	budget *Budget
}

func (m *budgeted) Name() string { return m.model.Name() }

// Complete returns the cause of ctx's end where that is why there is no answer.
func (m *budgeted) Complete(ctx context.Context, r Request) (Response, error) {
	resp, err := m.client.persist(ctx, m.model, m.budget, r)
	other := m.client.cfg.Fallback
	if err != nil && other != nil && other.Name() != m.model.Name() && ctx.Err() == nil && passing(err) {
		resp, err = m.client.persist(ctx, other, m.budget, r)
	}
	return resp, err
}

// persist tries one model until it answers or that will not help.
func (c *Client) persist(ctx context.Context, m Model, b *Budget, r Request) (Response, error) {
	for try := 1; ; try++ {
		resp, err := c.try(ctx, m, b, r)
		if err == nil || try == tries || !passing(err) || codeOf(err) == "too-large" {
			return resp, err
		}
		pause := time.Duration((0.5 + rand.Float64()/2) * float64(c.cfg.Pause<<(try-1)))
		if e, ok := errors.AsType[*fault.Error](err); ok {
			pause = max(pause, e.RetryAfter)
		}
		if end, ok := ctx.Deadline(); pause > longPause || ok && time.Until(end) < pause {
			return resp, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Response{}, context.Cause(ctx)
		}
	}
}

// passing reports whether err may be over soon, or elsewhere.
func passing(err error) bool {
	return errors.Is(err, fault.RateLimited) || errors.Is(err, fault.Unavailable)
}

// modelName is what a model may call itself.
var modelName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$`)

// try asks once, under a span of its own.
func (c *Client) try(ctx context.Context, m Model, b *Budget, r Request) (resp Response, err error) {
	system, user := r.Prompt()
	input, answer := estimate(system, user), r.MaxTokens
	if c.cfg.Free {
		input, answer = 0, 0
	}
	price := c.cfg.Prices[m.Name()]
	granted, settle, err := b.reserve(ctx, price, input, answer)
	if err != nil {
		return Response{}, err
	}
	if !c.cfg.Free {
		r.MaxTokens = granted
	}
	var used Spend
	defer func() { settle(used) }()

	spanCtx, span := otel.Tracer("nofx.dev/worker/internal/llm").Start(ctx, "chat "+m.Name(), trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		telemetry.GenAIOperationKey.String("chat"), telemetry.GenAIProviderKey.String(c.cfg.Provider),
		telemetry.GenAIRequestModelKey.String(m.Name()), telemetry.GenAIMaxTokensKey.Int(r.MaxTokens)))
	defer span.End()
	limited, cancel := context.WithTimeout(spanCtx, c.cfg.TryLimit)
	defer cancel()
	began := time.Now()
	resp, err = m.Complete(limited, r)
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil && limited.Err() != nil:
		err = fault.New(fault.Unavailable, "timeout", "the model gave no answer within %v", c.cfg.TryLimit)
	case err == nil:
		if !modelName.MatchString(resp.Model) {
			resp.Model = m.Name()
		}
		resp.Usage.CostUSD = price.of(resp.Usage)
		if used = (Spend{resp.Usage.Input + resp.Usage.Output, resp.Usage.CostUSD}); used.Tokens == 0 && !c.cfg.Free { // a server that does not count
			output := estimate(resp.Text)
			used = Spend{input + output, price.of(Usage{Input: input, Output: output})}
		}
	}
	if code := codeOf(err); err != nil && (ctx.Err() != nil || code == "timeout" || code == "malformed" || code == "too-large") {
		used = Spend{input, price.of(Usage{Input: input})} // it was read, and providers want that paid
	}
	c.observe(spanCtx, span, m.Name(), resp, err, time.Since(began))
	return resp, err
}

func (c *Client) observe(ctx context.Context, span trace.Span, model string, resp Response, err error, took time.Duration) {
	outcome := outcomeOf(ctx, resp, err)
	c.cfg.Metrics.LLMDuration.Observe(ctx, took.Seconds(), c.cfg.Provider, model, outcome)
	span.SetAttributes(telemetry.OutcomeKey.String(outcome))
	if err != nil {
		if outcome != "cancelled" {
			span.SetAttributes(telemetry.ErrorTypeKey.String(outcome))
			span.SetStatus(codes.Error, outcome)
		}
		return
	}
	u := resp.Usage
	span.SetAttributes(
		telemetry.GenAIResponseModelKey.String(resp.Model), telemetry.GenAIFinishReasonsKey.StringSlice([]string{string(resp.Stop)}),
		telemetry.GenAIInputTokensKey.Int64(u.Input), telemetry.GenAIOutputTokensKey.Int64(u.Output), telemetry.GenAICachedTokensKey.Int64(u.Cached))
	for direction, n := range map[string]int64{"input": u.Input, "output": u.Output, "cached": u.Cached} {
		c.cfg.Metrics.LLMTokens.Add(float64(n), c.cfg.Provider, model, direction)
	}
	c.cfg.Metrics.LLMCost.Add(u.CostUSD, c.cfg.Provider, model)
}

// outcomeOf returns the outcome of a try for its span and for metrics.
func outcomeOf(ctx context.Context, resp Response, err error) string {
	switch {
	case err != nil && ctx.Err() != nil:
		return "cancelled"
	case err != nil:
		return codeOf(err)
	case resp.Stop == Refusal:
		return "refused"
	case resp.Stop == Length:
		return "truncated"
	}
	return "ok"
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e.Code
	}
	return "other"
}
