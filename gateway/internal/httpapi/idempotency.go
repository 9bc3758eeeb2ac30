package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/telemetry"
)

// apiVersion is part of every fingerprint.
const apiVersion = "1"

// request is a request that may have an Idempotency-Key, and with one is executed once.
type request struct {
	body []byte // which has been read strictly
	// check returns what is wrong with the text of the request, and looks at nothing else.
	// Any repetition would get the same refusal, so it is kept like an answer.
	check func() error
	// do executes the request. What it refuses may be possible later, so its errors are
	// not kept. The claim of the key, the changes that do makes in the store with its
	// context, and the stored answer are one transaction.
	do func(context.Context) (postgres.Answer, error)
}

// answerOnce executes a request and sends its answer.
func (s *Server) answerOnce(c echo.Context, p *identity.Principal, req request) error {
	a, err := s.once(c, p, req)
	if err != nil {
		return err
	}
	return s.send(c, a)
}

// once returns the answer to a request without sending it: a handler may add to the
// stored part.
func (s *Server) once(c echo.Context, p *identity.Principal, req request) (postgres.Answer, error) {
	r := c.Request()
	key, err := idempotencyKey(r)
	if err != nil {
		return postgres.Answer{}, err
	}
	if key == "" {
		if err := req.check(); err != nil {
			return postgres.Answer{}, err
		}
		return req.do(r.Context())
	}
	fingerprint, err := s.fingerprint(c, p, req.body)
	if err != nil {
		return postgres.Answer{}, err
	}
	var refused error
	a, replayed, err := s.Store.Idempotent(r.Context(), p.Tenant,
		postgres.IdempotencyKey{Scope: infoOf(c).operation.id, Key: key, Fingerprint: fingerprint},
		func(ctx context.Context) (postgres.Answer, error) {
			if refused = req.check(); refused != nil {
				return s.form(c)(r, s.problem(r, refused)), nil
			}
			return req.do(ctx)
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
		s.Metrics.IdempotentReplays.Inc(s.routes[c.Path()].path)
	}
	return a, nil
}

// send writes the answer to a request that has been committed.
func (s *Server) send(c echo.Context, a postgres.Answer) error {
	if err := failpoint.Hit(failpoint.BeforeResponse); err != nil {
		return err
	}
	return write(c, a)
}

// idempotencyKey returns the key of the request without quotes, or "".
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

// fingerprint returns the digest by which two requests with one key are compared
// (EXECUTION.md): of method, path, tenant, project, version of the API, If-Match and the
// body in canonical form, so that order and spaces do not matter.
func (s *Server) fingerprint(c echo.Context, p *identity.Principal, body []byte) (sum [32]byte, err error) {
	canonical, err := canonicalJSON(body)
	if err != nil {
		return sum, fault.New(fault.Invalid, "malformed-json", "the body has no canonical form").Because(err)
	}
	r := c.Request()
	h := sha256.New()
	for _, part := range []string{
		r.Method, r.URL.Path, p.TenantID(), r.Header.Get("X-Project-Id"), apiVersion, r.Header.Get("If-Match"), string(canonical),
	} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return [32]byte(h.Sum(nil)), nil
}
