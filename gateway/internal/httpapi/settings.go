package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/postgres"
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
	of, err := s.Store.ChangeSettings(c.Request().Context(), p.Tenant, body, version)
	if err != nil {
		return err
	}
	return answerSettings(c, of)
}

func answerSettings(c echo.Context, s postgres.Settings) error {
	setETag(c, s.Version)
	return answer(c, http.StatusOK, api.SettingsAnswer{
		Settings: api.Settings{
			RetentionDays: s.RetentionDays, FourEyes: s.FourEyes, AllowWaive: s.AllowWaive, QueuedRunsMax: s.QueuedRunsMax,
			ModelTokensPerDay: s.DayTokens, ModelCostUsdPerDay: s.DayCostUSD, ReviewsEnabled: s.ReviewsEnabled,
		},
		Set: s.Set, Version: s.Version, UpdatedAt: utc(s.UpdatedAt), UpdatedBy: ptr(s.UpdatedBy), UpdatedByName: ptr(s.UpdatedByName),
	})
}
