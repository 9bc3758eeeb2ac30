package main

import (
	"math"
	"slices"
)

// quantile returns the smallest of values that at least the fraction q of them does
// not exceed (nearest rank), so it is always one that was measured. It is NaN
// when there are none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// ratios divides each of a by its counterpart in b, measured beside it.
func ratios(a, b []float64) []float64 {
	all := make([]float64, min(len(a), len(b)))
	for i := range all {
		all[i] = a[i] / b[i]
	}
	return all
}
