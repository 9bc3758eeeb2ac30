package llm

import (
	"fmt"
	"strconv"
	"strings"
)

// Price is what a million tokens of a model cost, in US dollars.
type Price struct{ Input, Output, Cached float64 }

// Prices are by the name that a model is asked under. They are configured and not
// built in, because a price that was right once is a wrong figure later.
type Prices map[string]Price

// ParsePrices reads entries MODEL=INPUT/OUTPUT or MODEL=INPUT/OUTPUT/CACHED. Without
// its own price, cached input costs what other input does.
func ParsePrices(entries []string) (Prices, error) {
	prices := Prices{}
	for _, entry := range entries {
		model, list, ok := strings.Cut(strings.TrimSpace(entry), "=")
		var v []float64
		for text := range strings.SplitSeq(list, "/") {
			f, err := strconv.ParseFloat(text, 64)
			ok = ok && err == nil && f >= 0 && f < 1e6
			v = append(v, f)
		}
		if !ok || model == "" || len(v) < 2 || len(v) > 3 {
			return nil, fmt.Errorf("%q is not MODEL=INPUT/OUTPUT[/CACHED], each US dollars per million tokens", entry)
		}
		p := Price{Input: v[0], Output: v[1], Cached: v[0]}
		if len(v) == 3 {
			p.Cached = v[2]
		}
		prices[model] = p
	}
	return prices, nil
}

// of returns what u costs, 0 at a price that is not known.
func (p Price) of(u Usage) float64 {
	return (float64(u.Input-u.Cached)*p.Input + float64(u.Cached)*p.Cached + float64(u.Output)*p.Output) / 1e6
}
