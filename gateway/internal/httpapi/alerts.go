package httpapi

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// newAlertSecret returns a secret in the form of Standard Webhooks: whsec_ and 32 random
// bytes in base64, which are the key of signatures.
func newAlertSecret() string {
	var key [32]byte
	_, _ = rand.Read(key[:]) // it never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key[:])
}

// sealAlertSecret returns what seals a secret for an endpoint.
func (s *Server) sealAlertSecret(secret string) func(postgres.AlertSecret) ([]byte, error) {
	return func(name postgres.AlertSecret) ([]byte, error) { return s.Keys.Seal([]byte(secret), name.Bound()...) }
}

// alertID returns the id of the endpoint in the path of a request.
func alertID(c echo.Context) (uuid.UUID, error) {
	if err := noQuery(c); err != nil {
		return uuid.Nil, err
	}
	return pathID(c, run.AlertID, "alert_id")
}

// listAlertEndpoints answers the endpoints of the tenant without their secrets, newest first.
func (s *Server) listAlertEndpoints(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, before := q.limit(200), q.afterID("alert-endpoints")
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.AlertEndpoints(c.Request().Context(), p.Tenant, before, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, "alert-endpoints", list, limit, func(e postgres.AlertEndpoint) string { return e.ID.String() })
	return answer(c, http.StatusOK, api.AlertEndpointPage{Items: convert(list, apiAlertEndpoint), NextCursor: next})
}

// getAlertEndpoint answers an endpoint without its secret.
func (s *Server) getAlertEndpoint(c echo.Context, p *identity.Principal) error {
	id, err := alertID(c)
	if err != nil {
		return err
	}
	e, err := s.Store.AlertEndpoint(c.Request().Context(), p.Tenant, id)
	if err != nil {
		return err
	}
	setETag(c, e.Version)
	return answer(c, http.StatusOK, api.AlertEndpointAnswer{Endpoint: apiAlertEndpoint(e)})
}

// createAlertEndpoint has a URL told of events, and answers its secret, the only time that
// it is shown.
func (s *Server) createAlertEndpoint(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	in, _, err := readJSON[api.AlertEndpointRequest](c)
	if err != nil {
		return err
	}
	if fields := append(s.badAlertURL(in.URL), badAlertEvents(in.Events)...); len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	ctx := c.Request().Context()
	if err := s.Store.CheckKey(ctx, s.Keys); err != nil {
		return err
	}
	secret := newAlertSecret()
	e, err := s.Store.CreateAlertEndpoint(ctx, p.Tenant, postgres.AlertEndpoint{URL: in.URL, Events: words(in.Events), CreatedBy: p.Subject}, s.sealAlertSecret(secret))
	if err != nil {
		return err
	}
	setETag(c, e.Version)
	return answer(c, http.StatusCreated, api.AlertEndpointAnswer{Endpoint: apiAlertEndpoint(e), Secret: &secret})
}

func (s *Server) badAlertURL(text string) []fault.Field {
	if detail := run.BadAlertURL(text, s.LocalAlerts); detail != "" {
		return []fault.Field{{Pointer: "/url", Detail: detail}}
	}
	return nil
}

// badAlertEvents returns all that is wrong with the events that an endpoint asks for.
func badAlertEvents(events []api.AlertEvent) (fields []fault.Field) {
	if len(events) == 0 || len(events) > 64 {
		return []fault.Field{{Pointer: "/events", Detail: "must have 1 to 64 events"}}
	}
	for i, event := range events {
		at := "/events/" + strconv.Itoa(i)
		if !slices.Contains(run.AlertEvents, string(event)) {
			fields = append(fields, fault.Field{Pointer: at, Detail: "must be one of " + strings.Join(run.AlertEvents, ", ")})
		} else if slices.Contains(events[:i], event) {
			fields = append(fields, fault.Field{Pointer: at, Detail: "is given twice"})
		}
	}
	return fields
}

func words(events []api.AlertEvent) []string {
	return convert(events, func(e api.AlertEvent) string { return string(e) })
}

// changeAlertEndpoint changes the URL or the events of an endpoint, or switches it on or off.
func (s *Server) changeAlertEndpoint(c echo.Context, p *identity.Principal) error {
	id, err := alertID(c)
	if err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	in, _, err := readJSON[api.AlertEndpointChange](c)
	if err != nil {
		return err
	}
	if in.URL == nil && in.Events == nil && in.Enabled == nil {
		return fieldFault("invalid-field", "", "nothing to change: give url, events or enabled")
	}
	change := postgres.AlertEndpointChange{URL: in.URL, Enabled: in.Enabled}
	var fields []fault.Field
	if in.URL != nil {
		fields = s.badAlertURL(*in.URL)
	}
	if in.Events != nil {
		fields, change.Events = append(fields, badAlertEvents(in.Events)...), words(in.Events)
	}
	if len(fields) > 0 {
		return fault.OfFields("invalid-field", fields...)
	}
	e, err := s.Store.ChangeAlertEndpoint(c.Request().Context(), p.Tenant, id, change, version)
	if err != nil {
		return err
	}
	setETag(c, e.Version)
	return answer(c, http.StatusOK, api.AlertEndpointAnswer{Endpoint: apiAlertEndpoint(e)})
}

// rotateAlertSecret gives an endpoint another secret and answers it, the only time that it is
// shown.
func (s *Server) rotateAlertSecret(c echo.Context, p *identity.Principal) error {
	id, err := alertID(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	if err := s.Store.CheckKey(ctx, s.Keys); err != nil {
		return err
	}
	secret := newAlertSecret()
	e, err := s.Store.RotateAlertSecret(ctx, p.Tenant, id, s.sealAlertSecret(secret))
	if err != nil {
		return err
	}
	setETag(c, e.Version)
	return answer(c, http.StatusOK, api.AlertEndpointAnswer{Endpoint: apiAlertEndpoint(e), Secret: &secret})
}

// deleteAlertEndpoint deletes an endpoint with its deliveries. It needs no key.
func (s *Server) deleteAlertEndpoint(c echo.Context, p *identity.Principal) error {
	id, err := alertID(c)
	if err != nil {
		return err
	}
	if err := s.Store.DeleteAlertEndpoint(c.Request().Context(), p.Tenant, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// listAlertDeliveries answers the deliveries to an endpoint, newest first.
func (s *Server) listAlertDeliveries(c echo.Context, p *identity.Principal) error {
	id, err := pathID(c, run.AlertID, "alert_id")
	if err != nil {
		return err
	}
	cursor := "alert-deliveries " + c.Param("alert_id")
	q := readQuery(c)
	limit, before := q.limit(200), q.afterID(cursor)
	if err := q.err(); err != nil {
		return err
	}
	list, err := s.Store.AlertDeliveries(c.Request().Context(), p.Tenant, id, before, limit+1)
	if err != nil {
		return err
	}
	list, next := page(c, cursor, list, limit, func(d postgres.AlertDelivery) string { return d.ID.String() })
	out := api.AlertDeliveryPage{Items: make([]api.AlertDelivery, len(list)), NextCursor: next}
	for i, d := range list {
		if out.Items[i], err = apiAlertDelivery(d); err != nil {
			return err
		}
	}
	return answer(c, http.StatusOK, out)
}

// redeliverAlert sends a delivery again, under the same id.
func (s *Server) redeliverAlert(c echo.Context, p *identity.Principal) error {
	id, err := alertID(c)
	if err != nil {
		return err
	}
	message, err := pathID(c, run.MessageID, "message_id")
	if err != nil {
		return err
	}
	d, err := s.Store.RedeliverAlert(c.Request().Context(), p.Tenant, id, message)
	if err != nil {
		return err
	}
	out, err := apiAlertDelivery(d)
	if err != nil {
		return err
	}
	return answer(c, http.StatusAccepted, api.AlertDeliveryAnswer{Delivery: out})
}

func apiAlertEndpoint(e postgres.AlertEndpoint) api.AlertEndpoint {
	return api.AlertEndpoint{
		ID: run.AlertID.Format(e.ID), URL: e.URL, Events: convert(e.Events, func(e string) api.AlertEvent { return api.AlertEvent(e) }),
		Status: api.AlertEndpointStatus(e.State), DisabledReason: ptr(api.AlertEndpointDisabledReason(e.DisabledReason)),
		FailingSince: utc(e.FailingSince), DroppedAt: utc(e.DroppedAt), SecretVersion: e.SecretVersion, PastSecretUntil: utc(e.PastUntil),
		Version: e.Version, CreatedBy: e.CreatedBy, CreatedAt: e.CreatedAt.UTC(), UpdatedAt: e.UpdatedAt.UTC(),
	}
}

func apiAlertDelivery(d postgres.AlertDelivery) (api.AlertDelivery, error) {
	out := api.AlertDelivery{
		ID: run.MessageID.Format(d.ID), Event: api.AlertEvent(d.Event), At: d.At.UTC(), Status: api.AlertDeliveryStatus(d.State), Attempt: d.Attempt,
		NextAttemptAt: utc(d.DueAt), TriedAt: utc(d.TriedAt), DurationMs: d.DurationMS, ResponseCode: d.ResponseCode,
		ResponseExcerpt: ptr(d.ResponseExcerpt), Error: ptr(d.Error),
	}
	if err := json.Unmarshal(d.Data, &out.Data); err != nil {
		return out, fmt.Errorf("data of delivery %s: %w", out.ID, err)
	}
	return out, nil
}
