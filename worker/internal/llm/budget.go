package llm

import (
	"context"
	"math"
	"sync"

	"nofx.dev/shared/fault"
)

// leastAnswer is the shortest answer, in tokens, that is worth asking for.
const leastAnswer = 64

// Spend is what calls use, or may use: tokens, input and output together, and US dollars
// where the price is known.
type Spend struct {
	Tokens  int64
	CostUSD float64
}

// Ledger is a budget that is kept elsewhere and that others use at the same time, such as
// that of a tenant's day. It is asked before each try, so it is also where models are
// turned off.
type Ledger interface {
	// Reserve takes the most that a try may use. After an error, such as fault.Forbidden
	// where it does not fit or models are turned off, there is no try.
	Reserve(ctx context.Context, most Spend) error
	// Settle replaces a reservation by what was used. It is called once after each
	// successful Reserve, with a context that has not ended. What a process had reserved
	// when it was killed stays taken.
	Settle(ctx context.Context, most, used Spend)
}

// Budget is what some calls may use together. A call that would go beyond is not made.
type Budget struct {
	mu    sync.Mutex
	limit Spend
	left  Spend
	outer []Ledger
}

// NewBudget returns a budget of so much, which lies within outer ones. A limit of 0
// dollars is none, and a model without a price has no cost.
func NewBudget(limit Spend, outer ...Ledger) *Budget {
	return &Budget{limit: limit, left: limit, outer: outer}
}

// reserve takes input tokens and as many of answer as are left, here and in the outer
// budgets. settle gives back what was not used.
func (b *Budget) reserve(ctx context.Context, at Price, input int64, answer int) (granted int, settle func(used Spend), err error) {
	granted, most, err := b.take(at, input, answer)
	if err != nil {
		return 0, nil, err
	}
	for i, l := range b.outer {
		if err := l.Reserve(ctx, most); err != nil {
			b.give(ctx, b.outer[:i], most, Spend{})
			return 0, nil, err
		}
	}
	return granted, func(used Spend) { b.give(ctx, b.outer, most, used) }, nil
}

func (b *Budget) take(at Price, input int64, answer int) (granted int, most Spend, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	least := min(answer, leastAnswer)
	granted = int(min(int64(answer), b.left.Tokens-input))
	if granted < least {
		return 0, Spend{}, fault.New(fault.Forbidden, "token-limit",
			"about %d tokens to read and an answer do not fit into the %d that are left of %d", input, b.left.Tokens, b.limit.Tokens)
	}
	read := at.of(Usage{Input: input})
	if b.limit.CostUSD > 0 && at.Output > 0 {
		granted = int(min(float64(granted), math.Floor((b.left.CostUSD-read)*1e6/at.Output)))
	}
	most = Spend{input + int64(granted), read + at.of(Usage{Output: int64(granted)})}
	if b.limit.CostUSD > 0 && (granted < least || most.CostUSD > b.left.CostUSD) {
		return 0, Spend{}, fault.New(fault.Forbidden, "cost-limit",
			"about $%.4f to read and an answer do not fit into the $%.4f that are left of $%.4f", read, b.left.CostUSD, b.limit.CostUSD)
	}
	b.left.Tokens -= most.Tokens
	b.left.CostUSD -= most.CostUSD
	return granted, most, nil
}

func (b *Budget) give(ctx context.Context, outer []Ledger, most, used Spend) {
	for _, l := range outer {
		l.Settle(context.WithoutCancel(ctx), most, used)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left.Tokens += most.Tokens - used.Tokens
	b.left.CostUSD += most.CostUSD - used.CostUSD
}

// estimate returns about how many tokens a text has. It errs upwards: code has three
// bytes or more to the token.
func estimate(texts ...string) int64 {
	n := 0
	for _, t := range texts {
		n += len(t)
	}
	return int64(n+2) / 3
}
