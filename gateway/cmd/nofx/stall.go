package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// stallTimeout is the longest time that a transfer may make no progress.
const stallTimeout = 30 * time.Second

// stalledError is a server that took the connection, or not even that, and then let no
// byte through for so long.
type stalledError struct {
	host  string
	after time.Duration
}

func (s *stalledError) Error() string {
	return fmt.Sprintf("the storage at %s does not respond: no byte was transferred for %v", s.host, s.after)
}

// exchange sends a request to the object storage. Each byte that is sent or received
// extends its time by a.stall. Without progress the request, or the reading of its
// response, ends with a *stalledError.
func (a *app) exchange(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	stalled := &stalledError{req.URL.Host, a.stall}
	alarm := time.AfterFunc(a.stall, func() { cancel(stalled) })
	req = req.WithContext(ctx)
	if req.Body != nil {
		req.Body = io.NopCloser(watched{req.Body, alarm, a.stall})
	}
	resp, err := storage.Do(req)
	if err != nil {
		alarm.Stop()
		defer cancel(nil)
		return nil, stallOf(ctx, err)
	}
	resp.Body = &watchedBody{watched{resp.Body, alarm, a.stall}, resp.Body, ctx, cancel}
	return resp, nil
}

// stallOf returns the stall that ended ctx, if one did, else err.
func stallOf(ctx context.Context, err error) error {
	if stalled, ok := errors.AsType[*stalledError](context.Cause(ctx)); ok {
		return stalled
	}
	return err
}

// watchedBody is the answer to an exchange.
type watchedBody struct {
	watched
	body   io.Closer
	ctx    context.Context // of the exchange
	cancel context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.watched.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = stallOf(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.alarm.Stop()
	b.cancel(nil)
	return b.body.Close()
}

// storage speaks to the object storage, whose URLs need no key.
var storage = &http.Client{
	Transport:     http.DefaultTransport.(*http.Transport).Clone(),
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
