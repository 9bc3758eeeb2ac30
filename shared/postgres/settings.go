package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// Settings are what a tenant's administrators decided, with the defaults in the place of
// what they did not.
type Settings struct {
	RetentionDays  int      // how long runs are kept after their end
	FourEyes       bool     // an author of a run lets none of its gates pass
	AllowWaive     bool     // gates may be waived
	QueuedRunsMax  *int     // runs that may wait for their start; nil: any number
	DayTokens      *int64   // that models may use for reviews in a day (UTC); nil: as many as they want
	DayCostUSD     *float64 // the same in US dollars
	ReviewsEnabled bool
	NetworkHosts   []string // that plans may ask for, as run.Host returns them
	Set            []string // names of those that administrators decided
	Version        int64
	UpdatedAt      *time.Time // nil: never
	UpdatedBy      string
	UpdatedByName  string
}

// Settings returns the settings of a tenant.
func (db *DB) Settings(ctx context.Context, tenant uuid.UUID) (s Settings, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		s, err = readSettings(ctx, tx, tenant)
		return err
	})
	return s, err
}

func readSettings(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) (Settings, error) {
	rows, err := tx.Query(ctx, `SELECT coalesce((t.settings->>'retention_days')::numeric::int, 30), coalesce((t.settings->>'four_eyes')::boolean, false), coalesce((t.settings->>'allow_waive')::boolean, true),
			(t.settings->>'queued_runs_max')::numeric::int, (t.settings->>'model_tokens_per_day')::numeric::bigint, (t.settings->>'model_cost_usd_per_day')::float8, coalesce((t.settings->>'reviews_enabled')::boolean, true),
			ARRAY(SELECT h FROM jsonb_array_elements_text(coalesce(t.settings->'network_hosts', '[]')) WITH ORDINALITY AS x (h, n) ORDER BY n),
			ARRAY(SELECT k FROM jsonb_object_keys(t.settings) AS x (k) ORDER BY k), t.settings_version, t.settings_at, coalesce(t.settings_by, ''), coalesce(nofx.subject_name(t.tenant_id, t.settings_by), '')
		FROM nofx.tenant t WHERE t.tenant_id = $1`, tenant)
	if err != nil {
		return Settings{}, err
	}
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Settings])
	return s, missing(err, "tenant")
}

// ChangeSettings changes the settings that a JSON object names, null meaning the default, and
// returns all of them. Another version than the one given is fault.Conflict (stale-version),
// a name or value that cannot be fault.Invalid with its pointer.
func (db *DB) ChangeSettings(ctx context.Context, tenant uuid.UUID, change []byte, version *int64) (s Settings, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.change_settings($1, $2)", string(change), version); err != nil {
			return err
		}
		s, err = readSettings(ctx, tx, tenant)
		return err
	})
	return s, err
}

// NetworkHosts returns the hosts that plans of a tenant may ask for.
func (db *DB) NetworkHosts(ctx context.Context, tenant uuid.UUID) (hosts []string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		hosts, err = networkHosts(ctx, tx, tenant)
		return err
	})
	return hosts, err
}

func networkHosts(ctx context.Context, tx pgx.Tx, tenant uuid.UUID) ([]string, error) {
	rows, err := tx.Query(ctx, "SELECT jsonb_array_elements_text(coalesce(settings->'network_hosts', '[]')) FROM nofx.tenant WHERE tenant_id = $1", tenant)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// checkNetwork returns fault.Invalid with a field for each host that a plan asks for and the
// tenant does not grant.
func checkNetwork(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, p run.Plan) error {
	if p.Policy == nil || p.Policy.Network == nil || len(p.Policy.Network.Hosts) == 0 {
		return nil
	}
	granted, err := networkHosts(ctx, tx, tenant)
	if err != nil {
		return err
	}
	var fields []fault.Field
	for _, i := range run.Ungranted(p.Policy.Network.Hosts, granted) {
		fields = append(fields, fault.Field{
			Pointer: "/plan/policy/network/hosts/" + strconv.Itoa(i),
			Detail:  "the tenant does not grant " + p.Policy.Network.Hosts[i] + "; an administrator can, by the setting network_hosts",
		})
	}
	if len(fields) == 0 {
		return nil
	}
	return fault.OfFields("invalid-plan", fields...)
}
