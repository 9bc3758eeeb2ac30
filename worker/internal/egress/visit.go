package egress

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// Result is what came of a connection that a step asked for.
type Result string

// The results.
const (
	Allowed Result = "allowed" // it was made
	Refused Result = "refused" // the step may not
	Failed  Result = "failed"  // the host could not be reached
)

// Visit is the connections of a step to one host, with one result.
type Visit struct {
	Host        string // NAME:PORT; "" for what is none, and for the rest when there are too many
	Result      Result
	Why         string // of those that were not made: of the first
	Connections int

	sent, received atomic.Int64
}

// Bytes returns how many bytes were sent and received.
func (v *Visit) Bytes() (sent, received int64) { return v.sent.Load(), v.received.Load() }

// mostVisits is how many visits are told apart: a step can ask for any number of names.
const mostVisits = 100

// visits counts connections. The zero value is ready.
type visits struct {
	mu  sync.Mutex
	all map[visitKey]*Visit
}

type visitKey struct {
	host   string
	result Result
}

// add counts a connection and returns its visit.
func (v *visits) add(host string, result Result, why string) *Visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.all == nil {
		v.all = map[visitKey]*Visit{}
	}
	key := visitKey{host, result}
	if v.all[key] == nil && len(v.all) >= mostVisits {
		key.host, why = "", ""
	}
	of := v.all[key]
	if of == nil {
		of = &Visit{Host: key.host, Result: result, Why: why}
		v.all[key] = of
	}
	of.Connections++
	return of
}

// list returns the visits by host and result. No connection is open any more.
func (v *visits) list() []*Visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]*Visit, 0, len(v.all))
	for _, of := range v.all {
		list = append(list, of)
	}
	slices.SortFunc(list, func(a, b *Visit) int { return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Result, b.Result)) })
	return list
}
