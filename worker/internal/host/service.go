package host

import (
	"context"
	"runtime/pprof"
)

// Service is what a worker does beside its steps, for them or for the deployment.
type Service struct {
	Name string
	Run  func(context.Context) // until its context ends
	// Outlasts has it run until the last step has ended, and not only until the worker
	// begins to drain.
	Outlasts bool
}

// serve runs a service until ctx ends. Its goroutines bear its name in profiles.
func (h *Host) serve(ctx context.Context, s Service) {
	pprof.Do(ctx, pprof.Labels("service", s.Name), s.Run)
	if ctx.Err() == nil {
		h.log.ErrorContext(ctx, "a service of the worker has ended", "service", s.Name)
	}
}
