package llm_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/llm"
)

// ledger is a budget of several that work at the same time.
type ledger struct {
	mu       sync.Mutex
	left     llm.Spend
	off      bool
	open     int // reservations
	reserved []llm.Spend
}

func (l *ledger) Reserve(_ context.Context, most llm.Spend) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.off:
		return fault.New(fault.Forbidden, "models-off", "models are turned off")
	case most.Tokens > l.left.Tokens || most.CostUSD > l.left.CostUSD:
		return fault.New(fault.Forbidden, "day-limit", "the budget of the day is used up")
	}
	l.left.Tokens -= most.Tokens
	l.left.CostUSD -= most.CostUSD
	l.open++
	l.reserved = append(l.reserved, most)
	return nil
}

func (l *ledger) Settle(ctx context.Context, most, used llm.Spend) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		panic("a settlement under a context that has ended")
	}
	l.left.Tokens += most.Tokens - used.Tokens
	l.left.CostUSD += most.CostUSD - used.CostUSD
	l.open--
}

// fixed is a model that answers with a usage, or an error.
type fixed struct {
	usage llm.Usage
	err   error
	asked []int // for how many tokens at most
}

func (*fixed) Name() string { return "m" }

func (f *fixed) Complete(_ context.Context, r llm.Request) (llm.Response, error) {
	f.asked = append(f.asked, r.MaxTokens)
	if f.err != nil {
		return llm.Response{}, f.err
	}
	return llm.Response{Text: "fine", Stop: llm.End, Model: "m", Usage: f.usage}, nil
}

func clientOf(t *testing.T, m llm.Model, b *llm.Budget) llm.Model {
	t.Helper()
	c := llm.NewClient(llm.Config{
		Provider: "t", Models: []llm.Model{m}, Prices: llm.Prices{"m": {Input: 10, Output: 100, Cached: 10}},
		Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "t"), Pause: 1,
	})
	asked, err := c.Model("", b)
	if err != nil {
		t.Fatal(err)
	}
	return asked
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

// Dollars are reserved at the price of the model before a call, and a call that might
// cost more than is left gets a shorter answer or none.
func TestCostLimit(t *testing.T) {
	t.Parallel()
	// 1,000 tokens of answer cost $0.1, those of the question about $0.001.
	m := &fixed{usage: llm.Usage{Input: 100, Output: 200}} // $0.021
	asked := clientOf(t, m, llm.NewBudget(llm.Spend{Tokens: 1e6, CostUSD: 0.15}))
	var err error
	spent := 0.0
	for err == nil && len(m.asked) < 100 {
		var resp llm.Response
		resp, err = asked.Complete(t.Context(), question)
		spent += resp.Usage.CostUSD
	}
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Code != "cost-limit" || e.Kind != fault.Forbidden {
		t.Fatalf("Complete() = %v after %d calls, want cost-limit", err, len(m.asked))
	}
	if n := len(m.asked); n != 7 || spent > 0.15 || m.asked[0] != 1000 || m.asked[n-1] >= 300 || m.asked[n-1] < 64 {
		t.Errorf("%d calls for $%.3f with answers of at most %v, want seven that fit into $0.15, the last ones shorter", n, spent, m.asked)
	}
	free := &fixed{usage: llm.Usage{Input: 100, Output: 200}}
	c := llm.NewClient(llm.Config{Models: []llm.Model{free}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "t")})
	local, err := c.Model("", llm.NewBudget(llm.Spend{Tokens: 1e6, CostUSD: 0.000001}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := local.Complete(t.Context(), question); err != nil {
		t.Errorf("Complete(model without a price) = %v, want an answer, which costs nothing", err)
	}
}

// An outer budget is asked before each try and gets back what a call did not use.
func TestLedger(t *testing.T) {
	t.Parallel()
	m := &fixed{usage: llm.Usage{Input: 100, Output: 200}}
	day, all := &ledger{left: llm.Spend{Tokens: 10_000, CostUSD: 1}}, &ledger{left: llm.Spend{Tokens: 1300, CostUSD: 1}}
	asked := clientOf(t, m, llm.NewBudget(llm.Spend{Tokens: 1e6}, day, all))
	if _, err := asked.Complete(t.Context(), question); err != nil {
		t.Fatal(err)
	}
	if day.left.Tokens != 9700 || !near(day.left.CostUSD, 1-0.021) || day.open != 0 || day.reserved[0].Tokens < 1000 || day.reserved[0].CostUSD < 0.1 {
		t.Errorf("after a call: left %+v, open %d, reserved %+v, want 300 tokens and $0.021 less after a reservation of the most", day.left, day.open, day.reserved)
	}
	before := day.left
	_, err := asked.Complete(t.Context(), question)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "day-limit" || len(m.asked) != 1 || day.open != 0 || day.left.Tokens != before.Tokens || !near(day.left.CostUSD, before.CostUSD) {
		t.Errorf("Complete(second budget used up) = %v after %d calls, left %+v of the first, want day-limit, no call and nothing taken", err, len(m.asked), day.left)
	}
	all.left.Tokens, day.off = 1e6, true
	_, err = asked.Complete(t.Context(), question)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "models-off" || len(m.asked) != 1 {
		t.Errorf("Complete(turned off) = %v after %d calls, want models-off and no call", err, len(m.asked))
	}
}

// What failed is counted where the provider has read it, and the switch holds between the
// tries of one call too.
func TestLedgerOfFailures(t *testing.T) {
	t.Parallel()
	for code, tt := range map[string]struct {
		err   error
		kind  fault.Kind
		tries int
		read  bool
	}{
		"unavailable":     {fault.New(fault.Unavailable, "unavailable", "down"), fault.Unavailable, 3, false},
		"malformed":       {fault.New(fault.Unavailable, "malformed", "cut"), fault.Unavailable, 3, true},
		"unauthenticated": {fault.New(fault.Unauthenticated, "unauthenticated", "key"), fault.Unauthenticated, 1, false},
	} {
		m := &fixed{err: tt.err}
		day := &ledger{left: llm.Spend{Tokens: 10_000, CostUSD: 1}}
		_, err := clientOf(t, m, llm.NewBudget(llm.Spend{Tokens: 1e6}, day)).Complete(t.Context(), question)
		if !errors.Is(err, tt.kind) || len(day.reserved) != tt.tries || day.open != 0 || (day.left.Tokens < 10_000) != tt.read {
			t.Errorf("%s: %v, %d reservations, %d open, left %+v, want %d and none open, read %t", code, err, len(day.reserved), day.open, day.left, tt.tries, tt.read)
		}
	}
	day := &ledger{left: llm.Spend{Tokens: 10_000, CostUSD: 1}}
	down := &turnsOff{day: day}
	_, err := clientOf(t, down, llm.NewBudget(llm.Spend{Tokens: 1e6}, day)).Complete(t.Context(), question)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "models-off" || down.calls != 1 {
		t.Errorf("Complete(turned off after the first try) = %v after %d calls, want models-off after one", err, down.calls)
	}
}

// turnsOff turns models off while it is asked, and fails.
type turnsOff struct {
	day   *ledger
	calls int
}

func (*turnsOff) Name() string { return "m" }

func (m *turnsOff) Complete(context.Context, llm.Request) (llm.Response, error) {
	m.calls++
	m.day.mu.Lock()
	defer m.day.mu.Unlock()
	m.day.off = true
	return llm.Response{}, fault.New(fault.Unavailable, "unavailable", "down")
}

// What is free is asked however little is left, uses nothing, and can still be turned off.
func TestBudgetOfWhatIsFree(t *testing.T) {
	t.Parallel()
	m := &fixed{}
	day := &ledger{left: llm.Spend{}}
	c := llm.NewClient(llm.Config{Provider: "rules", Free: true, Models: []llm.Model{m}, Metrics: telemetry.NewMetrics(prometheus.NewRegistry(), "test")})
	asked, err := c.Model("", llm.NewBudget(llm.Spend{Tokens: 1, CostUSD: 1}, day))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := asked.Complete(t.Context(), question); err != nil {
			t.Fatalf("Complete = %v, want an answer", err)
		}
	}
	if day.left != (llm.Spend{}) || len(day.reserved) != 3 || m.asked[0] != question.MaxTokens {
		t.Errorf("left %+v after %d reservations, at most %d tokens asked for, want nothing used, 3, and %d", day.left, len(day.reserved), m.asked[0], question.MaxTokens)
	}
	day.off = true
	_, err = asked.Complete(t.Context(), question)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Code != "models-off" || len(m.asked) != 3 {
		t.Errorf("Complete(turned off) = %v after %d calls, want models-off and no call", err, len(m.asked))
	}
}
