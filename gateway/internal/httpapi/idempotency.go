package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"

	"github.com/gowebpki/jcs"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
)

// apiVersion is part of every fingerprint.
const apiVersion = "1"

// idempotent answers with what do makes of the request. Under an Idempotency-Key
// it is done once: the claim of the key, all that do does to the store with its
// context, and the stored answer are one transaction. body are the request's
// bytes, which have been read strictly.
func (s *Server) idempotent(c echo.Context, p *Principal, operation string, body []byte, do func(context.Context) (postgres.Answer, error)) error {
	a, err := s.once(c, p, operation, body, do)
	if err != nil {
		return err
	}
	return s.send(c, a)
}

// once is idempotent for an answer that is not all of what is sent.
func (s *Server) once(c echo.Context, p *Principal, operation string, body []byte, do func(context.Context) (postgres.Answer, error)) (postgres.Answer, error) {
	r := c.Request()
	key, err := idempotencyKey(r)
	if err != nil {
		return postgres.Answer{}, err
	}
	if key == "" {
		return do(r.Context())
	}
	var refused error // what a stored refusal was made of
	fingerprint, err := s.fingerprint(c, p, body)
	if err != nil {
		return postgres.Answer{}, err
	}
	a, replayed, err := s.Store.Idempotent(r.Context(), p.Tenant,
		postgres.IdempotencyKey{Scope: operation, Key: key, Fingerprint: fingerprint},
		func(ctx context.Context) (postgres.Answer, error) {
			a, err := do(ctx)
			refused = err
			if err != nil {
				// The store keeps a refusal that would be the same again.
				refusal := s.problem(r, err)
				a = postgres.Answer{Status: refusal.Status, Header: map[string]string{"Content-Type": mimeProblem}, Body: encode(refusal)}
			}
			return a, err
		})
	if err != nil {
		return postgres.Answer{}, err
	}
	if refused != nil {
		s.note(c, refused)
	}
	trace.SpanFromContext(r.Context()).SetAttributes(telemetry.IdempotentReplayKey.Bool(replayed))
	if replayed {
		c.Response().Header().Set("Idempotent-Replayed", "true")
		s.Metrics.IdempotentReplays.Inc(s.routes[c.Path()])
	}
	return a, nil
}

// send writes an answer whose doing is committed.
func (s *Server) send(c echo.Context, a postgres.Answer) error {
	if err := failpoint.Hit(failpoint.BeforeResponse); err != nil {
		return err
	}
	for name, value := range a.Header {
		c.Response().Header().Set(name, value)
	}
	return c.Blob(a.Status, a.Header["Content-Type"], a.Body)
}

// idempotencyKey is the key of the request without the quotes it may have, or "".
func idempotencyKey(r *http.Request) (string, error) {
	given := r.Header.Values("Idempotency-Key")
	if len(given) == 0 {
		return "", nil
	}
	key := given[0]
	if len(key) >= 2 && strings.HasPrefix(key, `"`) && strings.HasSuffix(key, `"`) {
		key = key[1 : len(key)-1]
	}
	visible := strings.IndexFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) < 0
	if len(given) > 1 || key == "" || len(key) > 255 || !visible {
		return "", badParameter("Idempotency-Key", "one key of 1 to 255 printable ASCII characters")
	}
	return key, nil
}

// fingerprint tells requests under one key apart (EXECUTION.md): method, path,
// tenant, project, version of the API, If-Match and the body in canonical form, so
// that order and spaces do not matter.
func (s *Server) fingerprint(c echo.Context, p *Principal, body []byte) (sum [32]byte, err error) {
	canonical, err := jcs.Transform(body)
	if err != nil {
		return sum, fault.New(fault.Invalid, "malformed-json", "the body has no canonical form").Because(err)
	}
	r := c.Request()
	h := sha256.New()
	for _, part := range []string{
		r.Method, r.URL.Path, p.tenantID(), r.Header.Get("X-Project-Id"), apiVersion, r.Header.Get("If-Match"), string(canonical),
	} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return [32]byte(h.Sum(nil)), nil
}
