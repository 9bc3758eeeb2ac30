package main

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // 100 … 1
	}
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{7}, 0.99, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0, 1},
		{[]float64{4, 1, 3, 2}, 1, 4},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
	} {
		if got := quantile(c.values, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile(nil, 0.5) = %v, want NaN", got)
	}
}

// The quantile is a measured value, enough values are not above it, fewer would
// be with the next one below, and the values stay in their order.
func TestQuantileProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 200).Draw(t, "values")
		q := rapid.Float64Range(0.001, 1).Draw(t, "q")
		before := slices.Clone(values)
		got := quantile(values, q)
		if diff := cmp.Diff(before, values); diff != "" {
			t.Fatalf("quantile changed its argument (-before +after):\n%s", diff)
		}
		if !slices.Contains(values, got) {
			t.Fatalf("quantile(%v, %v) = %v, want one of the values", values, q, got)
		}
		var below, upTo int
		for _, v := range values {
			if v < got {
				below++
			}
			if v <= got {
				upTo++
			}
		}
		need := q * float64(len(values))
		if float64(upTo) < need || float64(below) >= need {
			t.Fatalf("quantile(%v, %v) = %v: %d below it, %d up to it, want < %v ≤", values, q, got, below, upTo, need)
		}
	})
}

func TestRatios(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff([]float64{0.5, 4}, ratios([]float64{1, 8, 3}, []float64{2, 2})); diff != "" {
		t.Errorf("ratios (-want +got):\n%s", diff)
	}
}
