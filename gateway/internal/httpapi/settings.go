package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// getSettings answers what holds for the tenant.
func (s *Server) getSettings(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	of, err := s.Store.Settings(c.Request().Context(), p.Tenant)
	if err != nil {
		return err
	}
	return answerSettings(c, of)
}

// changeSettings changes the settings that the body names. Their ranges are the database's.
func (s *Server) changeSettings(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	version, err := ifMatch(c)
	if err != nil {
		return err
	}
	_, body, err := readJSON[api.SettingsChange](c)
	if err != nil {
		return err
	}
	members := map[string]any{}
	if err := decode(body, &members); err != nil {
		return err
	}
	if len(members) == 0 {
		return fieldFault("invalid-field", "", "nothing to change: give a setting, or null for its default")
	}
	if hosts, given := members[networkHosts].([]any); given {
		if members[networkHosts], err = normalHosts(hosts); err != nil {
			return err
		}
		if body, err = json.Marshal(members); err != nil {
			return err
		}
	}
	of, err := s.Store.ChangeSettings(c.Request().Context(), p.Tenant, body, version)
	if err != nil {
		return err
	}
	return answerSettings(c, of)
}

// networkHosts is the setting with the hosts that plans may ask for.
const networkHosts = "network_hosts"

// normalHosts returns hosts in the form in which they are stored, or fault.Invalid with a
// field for each that cannot be one.
func normalHosts(given []any) ([]string, error) {
	texts := make([]string, len(given))
	for i, host := range given {
		texts[i], _ = host.(string) // it was read as one
	}
	var fields []fault.Field
	hosts := run.Hosts(texts, func(place int, detail string) {
		pointer := "/" + networkHosts
		if place >= 0 {
			pointer += "/" + strconv.Itoa(place)
		}
		fields = append(fields, fault.Field{Pointer: pointer, Detail: detail})
	})
	if len(fields) > 0 {
		return nil, fault.OfFields("invalid-field", fields...)
	}
	return hosts, nil
}

func answerSettings(c echo.Context, s postgres.Settings) error {
	setETag(c, s.Version)
	return answer(c, http.StatusOK, api.SettingsAnswer{
		Settings: api.Settings{
			RetentionDays: s.RetentionDays, FourEyes: s.FourEyes, AllowWaive: s.AllowWaive, QueuedRunsMax: s.QueuedRunsMax,
			ModelTokensPerDay: s.DayTokens, ModelCostUsdPerDay: s.DayCostUSD, ReviewsEnabled: s.ReviewsEnabled, NetworkHosts: s.NetworkHosts,
		},
		Set: s.Set, Version: s.Version, UpdatedAt: utc(s.UpdatedAt), UpdatedBy: ptr(s.UpdatedBy), UpdatedByName: ptr(s.UpdatedByName),
	})
}
