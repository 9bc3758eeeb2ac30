package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// signalRequest is the contract's SignalRequest with the payload as it came.
type signalRequest struct {
	Key     string          `json:"key"`
	Payload json.RawMessage `json:"payload"`
}

// sendSignal wakes the step that waits for a signal, or keeps the signal for it.
func (s *Server) sendSignal(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, body, err := readJSON[signalRequest](c, "/payload")
	if err != nil {
		return err
	}
	return s.answerOnce(c, p, request{
		body:  body,
		check: in.check,
		do: func(ctx context.Context) (postgres.Answer, error) {
			if in.Payload == nil {
				in.Payload = json.RawMessage("null")
			}
			id, taken, err := s.Store.SendSignal(ctx, p.Tenant, in.Key, in.Payload)
			if err != nil {
				return postgres.Answer{}, err
			}
			var out api.SignalAnswer
			out.Signal.ID, out.Signal.Key, out.Signal.Taken = run.SignalID.Format(id), in.Key, taken
			return postgres.Answer{Status: http.StatusCreated, Header: map[string]string{"Content-Type": echo.MIMEApplicationJSON}, Body: encode(out)}, nil
		},
	})
}

func (in signalRequest) check() error {
	if n := utf8.RuneCountInString(in.Key); n < 1 || n > run.MaxSignalKey {
		return fieldFault("invalid-field", "/key", fmt.Sprintf("must have 1 to %d characters", run.MaxSignalKey))
	}
	if n := plainLen(in.Payload); n > run.MaxPayload {
		return fieldFault("invalid-field", "/payload", fmt.Sprintf("%d bytes, with its numbers written out; at most %d", n, run.MaxPayload))
	}
	return nil
}
