package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// await repeats a request until the system run that does its work has ended, and returns
// the response. underway returns the id of that run, or "" once the work is done. What the
// worker is doing is told once.
func await[T any](ctx context.Context, a *app, doing string, ask func() (*http.Response, error), underway func(T) string) (v T, raw []byte, err error) {
	for told := false; ; told = true {
		if v, raw, err = call[T](ask()); err != nil {
			return v, raw, err
		}
		id := underway(v)
		if id == "" {
			return v, raw, nil
		}
		if !told {
			fmt.Fprintf(a.errOut, "a worker is %s; see %s run show %s\n", doing, a.self(), id)
		}
		if err := a.pause(ctx, time.Second); err != nil {
			return v, raw, err
		}
	}
}
