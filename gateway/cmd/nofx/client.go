package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nofx.dev/gateway/api"
)

const (
	maxTries      = 3                // of a request that may be repeated
	patientTries  = 10               // of a request that takes long, or that follows much work
	maxAnswer     = 64 << 20         // bytes of one JSON answer
	answerTimeout = 40 * time.Second // for the head of a response; the gateway waits 30 s for storage
	maxBackoff    = 10 * time.Second // between two tries
	maxRetryAfter = 10 * time.Second // beyond that people decide
)

// client speaks to the gateway of this process's configuration.
func (a *app) client() (*api.Client, error) {
	return a.clientAs(caller{tries: maxTries}, answerTimeout)
}

// patientClient returns a client for requests that can all be repeated and that may take as
// long as given. It repeats them while a gateway restarts or connections break.
func (a *app) patientClient(limit time.Duration) (*api.Client, error) {
	return a.clientAs(caller{tries: patientTries, harmless: true}, limit)
}

func (a *app) clientAs(c caller, limit time.Duration) (*api.Client, error) {
	address, key, err := a.gateway()
	if err != nil {
		return nil, err
	}
	c.address, c.key = address, key
	return a.clientOf(c, limit)
}

// clientOf returns a client that sends requests with c.
func (a *app) clientOf(c caller, limit time.Duration) (*api.Client, error) {
	return api.NewClient(c.address, api.WithHTTPClient(a.sending(c, limit)))
}

// sending returns c with what it takes to send requests, whose answers may begin as late as
// limit.
func (a *app) sending(c caller, limit time.Duration) *caller {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = limit
	c.slow, c.pause, c.http = a.stall/2, a.pause, &http.Client{Transport: transport, CheckRedirect: leaveKeyBehind}
	return &c
}

// leaveKeyBehind drops the key when a redirect leaves the gateway. Go compares
// names only, but an object store on another port is another server.
func leaveKeyBehind(req *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("too many redirects")
	}
	if req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
		req.Header.Del("Authorization")
	}
	return nil
}

// caller adds a key to requests and repeats requests that can be repeated: reads,
// requests with an Idempotency-Key, or all requests if the command says so.
type caller struct {
	address  string
	name     string // of the server at address, in errors; none: the gateway
	key      credential
	tries    int
	harmless bool
	slow     time.Duration // a try that was answered by a failure only after so long is the last
	http     *http.Client
	pause    func(context.Context, time.Duration) error
}

func (c *caller) Do(req *http.Request) (*http.Response, error) {
	key, err := c.key(req.Context())
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("User-Agent", "nofx-cli")
	stream := req.Header.Get("Accept") == api.EventStream // comes back by itself, see stream.go
	repeatable := !stream && (c.harmless || req.Method == http.MethodGet || req.Header.Get("Idempotency-Key") != "")
	for try := 1; ; try++ {
		began := time.Now()
		resp, err := c.http.Do(req)
		slow := time.Since(began) > c.slow && (resp != nil || !c.harmless)
		if err != nil {
			err = c.unanswered(err)
		}
		wait, again := worthRepeating(resp, err, try)
		if slow || !repeatable || !again || try == c.tries {
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
		if err := c.pause(req.Context(), wait); err != nil {
			return nil, err
		}
		if req.GetBody != nil {
			if req.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// unanswered returns an error that names the server that did not respond: the gateway, or
// the storage to which it redirected.
func (c *caller) unanswered(err error) error {
	who := cmp.Or(c.name, "the gateway") + " at " + c.address
	if u, ok := errors.AsType[*url.Error](err); ok {
		gateway, _ := url.Parse(c.address)
		if at, parseErr := url.Parse(u.URL); parseErr == nil && gateway != nil && at.Host != gateway.Host {
			who = "the storage at " + at.Host
		}
		if u.Timeout() {
			return fmt.Errorf("no response from %s in time", who)
		}
	}
	return fmt.Errorf("no response from %s: %w", who, cause(err))
}

// cause returns the error without the HTTP client's prefix of method and URL.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// worthRepeating reports whether the same request may fare better, and when.
func worthRepeating(resp *http.Response, err error, try int) (time.Duration, bool) {
	backoff := jitter(min(200*time.Millisecond<<try, maxBackoff))
	if err != nil {
		return backoff, true
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	case http.StatusConflict: // with Retry-After: the same key is in flight
		if resp.Header.Get("Retry-After") == "" {
			return 0, false
		}
	default:
		return 0, false
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		wait := time.Duration(s) * time.Second
		return wait + jitter(backoff), wait <= maxRetryAfter
	}
	return backoff, true
}

// jitter returns a random part of d.
func jitter(d time.Duration) time.Duration { return rand.N(d + 1) }

// call reads a JSON answer: the value, and the bytes as they came. A refusal is
// a *problemError.
func call[T any](resp *http.Response, err error) (v T, raw []byte, _ error) {
	if err != nil {
		return v, nil, err
	}
	defer resp.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return v, nil, fmt.Errorf("read the gateway's response: %w", err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return v, nil, refusal(resp, raw)
	}
	if len(raw) == 0 && resp.StatusCode == http.StatusNoContent {
		return v, nil, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, nil, fmt.Errorf("the response does not follow the API's contract (%s): is this a NOFX gateway? %w",
			resp.Header.Get("Content-Type"), err)
	}
	return v, raw, nil
}

// problemError is a refusal of the gateway.
type problemError struct {
	api.Problem
	raw []byte
}

func refusal(resp *http.Response, raw []byte) error {
	p := &problemError{raw: raw}
	if err := json.Unmarshal(raw, &p.Problem); err != nil || p.Code == "" {
		return fmt.Errorf("the gateway answered %s", resp.Status)
	}
	p.Problem.Status = resp.StatusCode
	return p
}

func (p *problemError) Error() string {
	return fmt.Sprintf("%s (%s, trace %s)", p.Detail, p.Code, p.TraceID)
}

// unavailable reports whether err says that the gateway cannot answer now, and not that it
// refuses.
func unavailable(err error) bool {
	var p *problemError
	if errors.As(err, &p) {
		return p.Status >= http.StatusInternalServerError
	}
	return err != nil
}

// print shows the problem to people, or as it came.
func (p *problemError) print(w io.Writer, asJSON bool) {
	if asJSON {
		fmt.Fprintln(w, escaped(strings.TrimSpace(string(p.raw))))
		return
	}
	fmt.Fprintf(w, "error: %s\n", clean(p.Error()))
	for i, f := range p.Errors {
		at := f.Pointer
		if f.Step != nil {
			at += " (step " + *f.Step + ")"
		}
		if i == 0 && strings.Contains(p.Detail, f.Detail) {
			continue // said above
		}
		fmt.Fprintf(w, "  %s: %s\n", clean(at), clean(f.Detail))
	}
	if len(p.Allowed) > 0 {
		fmt.Fprintf(w, "  its status is %s; possible: %s\n", clean(deref(p.From)), clean(strings.Join(p.Allowed, ", ")))
	}
	for _, base := range p.Bases {
		fmt.Fprintf(w, "  --base %s\n", clean(base))
	}
	if g := p.Gate; g != nil {
		fmt.Fprintf(w, "  %s\n", clean(verdict(*g)))
	}
}
