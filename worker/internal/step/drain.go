package step

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// errDraining ends a tool when the worker goes down.
var errDraining = errors.New("the worker is shutting down")

// drain tells running tools that the worker is going down.
type drain struct {
	begun atomic.Bool   // nothing more is claimed
	told  chan struct{} // closed then

	mu      sync.Mutex
	hurry   bool
	next    int
	running map[int]context.CancelCauseFunc
}

func newDrain() *drain {
	return &drain{told: make(chan struct{}), running: map[int]context.CancelCauseFunc{}}
}

// begin begins the drain. It is to be called once.
func (d *drain) begin() {
	d.begun.Store(true)
	close(d.told)
}

// watch calls interrupt when the drain's grace is over, until the returned
// function is called.
func (d *drain) watch(interrupt context.CancelCauseFunc) (forget func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hurry {
		interrupt(errDraining)
	}
	id := d.next
	d.next++
	d.running[id] = interrupt
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, id)
	}
}

func (d *drain) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hurry = true
	for _, interrupt := range d.running {
		interrupt(errDraining)
	}
}
