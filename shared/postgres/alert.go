package postgres

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// AlertEndpoint is where a tenant is told of events, without its secret.
type AlertEndpoint struct {
	ID             uuid.UUID
	URL            string
	Events         []string
	State          string     // enabled or disabled
	DisabledReason string     // request, gone or failing; "" while it is enabled
	FailingSince   *time.Time // nil: its last delivery arrived, or there was none
	DroppedAt      *time.Time // when an event was last left out, because too many deliveries waited
	SecretVersion  int64
	PastUntil      *time.Time // until then the secret before signs, too
	Version        int64
	CreatedBy      string
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// AlertSecret names the secret of an endpoint in one version, as it is sealed.
type AlertSecret struct {
	TenantID, EndpointID uuid.UUID
	Version              int64
}

// Bound returns the names that the sealed secret is bound to, see package seal.
func (s AlertSecret) Bound() []string {
	return []string{"alert", s.TenantID.String(), s.EndpointID.String(), strconv.FormatInt(s.Version, 10)}
}

const alertEndpointColumns = `SELECT id, url, events, state, coalesce(disabled_reason, ''), failing_since, dropped_at, secret_version,
	CASE WHEN past_until > clock_timestamp() THEN past_until END, version, created_by, created_at, updated_at FROM nofx.alert_endpoint WHERE tenant_id = $1 `

// AlertEndpoints lists endpoints of a tenant, newest first, before one of them.
func (db *DB) AlertEndpoints(ctx context.Context, tenant uuid.UUID, before *uuid.UUID, limit int) (list []AlertEndpoint, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, alertEndpointColumns+"AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3", tenant, before, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AlertEndpoint])
		return err
	})
	return list, err
}

// AlertEndpoint returns an endpoint, or fault.NotFound.
func (db *DB) AlertEndpoint(ctx context.Context, tenant, id uuid.UUID) (e AlertEndpoint, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		e, err = oneAlertEndpoint(ctx, tx, tenant, id)
		return err
	})
	return e, err
}

func oneAlertEndpoint(ctx context.Context, tx pgx.Tx, tenant, id uuid.UUID) (AlertEndpoint, error) {
	rows, err := tx.Query(ctx, alertEndpointColumns+"AND id = $2", tenant, id)
	if err != nil {
		return AlertEndpoint{}, err
	}
	e, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[AlertEndpoint])
	return e, missing(err, "alert endpoint")
}

// CreateAlertEndpoint creates an endpoint with the URL, events and author of e, and the secret
// that seal returns sealed. One endpoint too many is fault.Conflict (alert-endpoint-limit); an
// error of seal is returned, and nothing changes.
func (db *DB) CreateAlertEndpoint(ctx context.Context, tenant uuid.UUID, e AlertEndpoint, seal func(AlertSecret) ([]byte, error)) (made AlertEndpoint, err error) {
	id := run.NewID()
	sealed, err := seal(AlertSecret{tenant, id, 1})
	if err != nil {
		return made, err
	}
	doc, err := document(map[string]any{"url": e.URL, "events": e.Events, "created_by": e.CreatedBy})
	if err != nil {
		return made, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.create_alert_endpoint($1, $2, $3)", id, doc, sealed); err != nil {
			return err
		}
		made, err = oneAlertEndpoint(ctx, tx, tenant, id)
		return err
	})
	return made, err
}

// AlertEndpointChange changes what it names of an endpoint.
type AlertEndpointChange struct {
	URL     *string  `json:"url,omitempty"`
	Events  []string `json:"events,omitempty"`
	Enabled *bool    `json:"enabled,omitempty"`
}

// ChangeAlertEndpoint changes an endpoint and returns it. What waits for one that is disabled
// has failed. Another version than the one given is fault.Conflict (stale-version).
func (db *DB) ChangeAlertEndpoint(ctx context.Context, tenant, id uuid.UUID, c AlertEndpointChange, version *int64) (changed AlertEndpoint, err error) {
	doc, err := document(c)
	if err != nil {
		return changed, err
	}
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.change_alert_endpoint($1, $2, $3)", id, doc, version); err != nil {
			return err
		}
		changed, err = oneAlertEndpoint(ctx, tx, tenant, id)
		return err
	})
	return changed, err
}

// RotateAlertSecret gives an endpoint the secret that seal returns sealed. The one before
// signs, too, for 24 hours.
func (db *DB) RotateAlertSecret(ctx context.Context, tenant, id uuid.UUID, seal func(AlertSecret) ([]byte, error)) (changed AlertEndpoint, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		next := AlertSecret{TenantID: tenant, EndpointID: id}
		if err := tx.QueryRow(ctx, "SELECT nofx.begin_alert_rotation($1)", id).Scan(&next.Version); err != nil {
			return err
		}
		sealed, err := seal(next)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT nofx.rotate_alert_secret($1, $2)", id, sealed); err != nil {
			return err
		}
		changed, err = oneAlertEndpoint(ctx, tx, tenant, id)
		return err
	})
	return changed, err
}

// DeleteAlertEndpoint deletes an endpoint with its deliveries. An unknown one is
// fault.NotFound.
func (db *DB) DeleteAlertEndpoint(ctx context.Context, tenant, id uuid.UUID) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var found bool
		if err := tx.QueryRow(ctx, "SELECT nofx.delete_alert_endpoint($1)", id).Scan(&found); err != nil || found {
			return err
		}
		return missing(pgx.ErrNoRows, "alert endpoint")
	})
}

// AlertDelivery is one event for one endpoint, with its last attempt.
type AlertDelivery struct {
	ID              uuid.UUID // of the message
	Event           string
	Data            json.RawMessage
	At              time.Time
	State           string // pending, delivered or failed
	Attempt         int
	DueAt           *time.Time // of the next attempt; nil while one is under way, and when there is none
	TriedAt         *time.Time
	DurationMS      *int
	ResponseCode    *int
	ResponseExcerpt string
	Error           string
}

const alertDeliveryColumns = `SELECT id, event, data, at, state, attempt, CASE WHEN worker_id IS NULL THEN due_at END, tried_at, duration_ms, response_code,
	coalesce(response_excerpt, ''), coalesce(error, '') FROM nofx.alert_delivery WHERE tenant_id = $1 AND endpoint_id = $2 `

// AlertDeliveries lists deliveries to an endpoint, newest first, before one of them. An
// unknown endpoint is fault.NotFound.
func (db *DB) AlertDeliveries(ctx context.Context, tenant, endpoint uuid.UUID, before *uuid.UUID, limit int) (list []AlertDelivery, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneAlertEndpoint(ctx, tx, tenant, endpoint); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, alertDeliveryColumns+"AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4", tenant, endpoint, before, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AlertDelivery])
		return err
	})
	return list, err
}

// RedeliverAlert makes a delivery due at once, under the same id; one under way is left
// alone. A disabled endpoint is fault.Conflict (alert-endpoint-disabled).
func (db *DB) RedeliverAlert(ctx context.Context, tenant, endpoint, id uuid.UUID) (d AlertDelivery, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var enabled bool
		if err := tx.QueryRow(ctx, "SELECT nofx.redeliver_alert($1, $2)", endpoint, id).Scan(&enabled); err != nil {
			return err
		}
		if !enabled {
			return fault.New(fault.Conflict, "alert-endpoint-disabled", "the endpoint is disabled; enable it first")
		}
		rows, err := tx.Query(ctx, alertDeliveryColumns+"AND id = $3", tenant, endpoint, id)
		if err != nil {
			return err
		}
		d, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[AlertDelivery])
		return missing(err, "delivery")
	})
	return d, err
}

// AlertPlace is how far a look for deliveries has come; the zero value is the beginning.
type AlertPlace struct {
	Tenant, Endpoint uuid.UUID
}

// AlertRules are the settings of claims of deliveries.
type AlertRules struct {
	Looks int           // endpoints that one claim looks at
	Each  int           // deliveries of an endpoint that workers have at once
	Lease time.Duration // after which another worker may take a delivery
}

// AlertClaim is a delivery that a worker has, and what it needs for it.
type AlertClaim struct {
	TenantID, EndpointID, ID uuid.UUID

	Event         string
	Data          json.RawMessage
	At            time.Time
	Attempt       int
	URL           string
	SecretVersion int64
	Sealed        []byte
	SealedPast    []byte // the secret of the version before, while it signs, too
}

// Secrets returns the sealed secrets that sign, each with its name.
func (c AlertClaim) Secrets() (names []AlertSecret, sealed [][]byte) {
	names, sealed = []AlertSecret{{c.TenantID, c.EndpointID, c.SecretVersion}}, [][]byte{c.Sealed}
	if len(c.SealedPast) > 0 {
		names, sealed = append(names, AlertSecret{c.TenantID, c.EndpointID, c.SecretVersion - 1}), append(sealed, c.SealedPast)
	}
	return names, sealed
}

// ClaimAlerts gives a worker at most limit deliveries that are due, of all tenants, and
// moves place on behind the endpoints that it has looked at.
func (db *DB) ClaimAlerts(ctx context.Context, worker string, place *AlertPlace, r AlertRules, limit int) (list []AlertClaim, err error) {
	type found struct {
		Tenant, Endpoint uuid.UUID
		ID               *uuid.UUID
		Event            *string
		Data             json.RawMessage
		At               *time.Time
		Attempt          *int
		URL              *string
		SecretVersion    *int64
		Sealed, Past     []byte
	}
	rows, err := across(ctx, db, pgx.RowToStructByPos[found], `SELECT tenant_id, endpoint_id, id, event, data, at, attempt, url, secret_version, sealed, sealed_past
		FROM nofx.claim_alerts($1, $2, $3, $4, $5, $6, $7)`, worker, place.Tenant, place.Endpoint, r.Looks, limit, r.Each, r.Lease)
	if err != nil {
		return nil, err
	}
	*place = AlertPlace{}
	for _, f := range rows {
		if f.ID == nil {
			*place = AlertPlace{f.Tenant, f.Endpoint}
			continue
		}
		list = append(list, AlertClaim{f.Tenant, f.Endpoint, *f.ID, *f.Event, f.Data, *f.At, *f.Attempt, *f.URL, *f.SecretVersion, f.Sealed, f.Past})
	}
	return list, nil
}

// AlertResult is what came of an attempt at a delivery.
type AlertResult struct {
	Delivered       bool     `json:"delivered"`
	Gone            bool     `json:"gone"` // the receiver wants no more
	ResponseCode    int      `json:"response_code,omitempty"`
	ResponseExcerpt string   `json:"response_excerpt,omitempty"`
	Error           string   `json:"error,omitempty"`
	DurationMS      int64    `json:"duration_ms"`
	DelayS          *float64 `json:"delay_s,omitempty"` // until the next attempt; nil: there is none
}

// FinishAlert records the result of an attempt. It returns delivered, pending or failed;
// lost when another worker has the delivery or it is there no more; or disabled when its
// endpoint was, by this result.
func (db *DB) FinishAlert(ctx context.Context, worker string, c AlertClaim, r AlertResult) (state string, err error) {
	doc, err := document(r)
	if err != nil {
		return "", err
	}
	err = db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT nofx.finish_alert($1, $2, $3, $4, $5)", worker, c.EndpointID, c.ID, c.Attempt, doc).Scan(&state)
	})
	return state, err
}

// ExpireAlerts deletes at most limit deliveries of all tenants that are older than 30 days,
// and secrets that sign no more. It returns the number of the deliveries.
func (db *DB) ExpireAlerts(ctx context.Context, limit int) (int64, error) {
	expired, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.expire_alerts($1)", limit)
	if err != nil {
		return 0, err
	}
	return expired[0], nil
}
