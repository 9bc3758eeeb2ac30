package llm

import (
	"sync"

	"nofx.dev/shared/fault"
)

// leastAnswer is the shortest answer, in tokens, that is worth asking for.
const leastAnswer = 64

// Budget is the tokens that some calls may use together. Whoever would go beyond
// is not asked at all.
type Budget struct {
	mu    sync.Mutex
	limit int64
	left  int64
}

// NewBudget returns a budget of so many tokens, input and output together.
func NewBudget(tokens int64) *Budget { return &Budget{limit: tokens, left: tokens} }

// reserve takes input tokens and as many of answer as are left. settle gives back
// what was not used.
func (b *Budget) reserve(input int64, answer int) (granted int, settle func(used int64), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	granted = int(min(int64(answer), b.left-input))
	if granted < min(answer, leastAnswer) {
		return 0, nil, fault.New(fault.Forbidden, "token-limit",
			"about %d tokens to read and an answer do not fit into the %d that are left of %d", input, b.left, b.limit)
	}
	reserved := input + int64(granted)
	b.left -= reserved
	return granted, func(used int64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.left += reserved - used
	}, nil
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
