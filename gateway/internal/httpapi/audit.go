package httpapi

import (
	"encoding/hex"
	"net/http"
	"regexp"
	"strconv"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/blob"
	"nofx.dev/shared/postgres"
)

// actShape is the form of the names of acts.
var actShape = shape{regexp.MustCompile(`^[a-z_]{1,32}([.][a-z_]{1,31})?$`), "the name of an act, such as gate.approve"}

const (
	maxActor   = 512 // characters of the longest subject
	maxAnchors = 31
)

// listAudit answers the audit log of the tenant, newest first.
func (s *Server) listAudit(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit := q.limit(200)
	f := postgres.AuditFilter{Act: q.shaped("act", actShape), Since: q.time("since"), Until: q.time("until"), Before: q.afterNumber("audit", 0), Limit: limit + 1}
	f.Actor, _ = q.text("actor")
	if utf8.RuneCountInString(f.Actor) > maxActor {
		q.bad("actor", "has more than "+strconv.Itoa(maxActor)+" characters")
	}
	if f.Since != nil && f.Until != nil && !f.Since.Before(*f.Until) {
		q.bad("until", "must be after since")
	}
	if err := q.err(); err != nil {
		return err
	}
	rows, err := s.Store.Audit(c.Request().Context(), p.Tenant, f)
	if err != nil {
		return err
	}
	rows, next := page(c, "audit", rows, limit, func(r postgres.AuditRow) string { return strconv.FormatInt(r.Seq, 10) })
	return answer(c, http.StatusOK, api.AuditPage{TenantID: p.TenantID(), Items: convert(rows, apiAuditRow), NextCursor: next})
}

// listAuditAnchors answers the heads of the log that are kept in object storage, for whoever
// verifies the log.
func (s *Server) listAuditAnchors(c echo.Context, p *identity.Principal) error {
	if err := noQuery(c); err != nil {
		return err
	}
	anchors, err := s.Blobs.Anchors(c.Request().Context(), p.Tenant, maxAnchors)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, api.AuditAnchorList{Items: convert(anchors, func(a blob.Anchor) api.AuditAnchor {
		return api.AuditAnchor{Day: a.Day, Seq: a.Seq, Hash: a.Hash, At: a.At.UTC()}
	})})
}

func apiAuditRow(r postgres.AuditRow) api.AuditRow {
	return api.AuditRow{
		Seq: r.Seq, At: r.At.UTC(), Actor: r.Actor, ActorName: ptr(r.ActorName), Via: r.Via, Act: r.Act, Object: r.Object, Reason: ptr(r.Reason),
		Before: r.Before, After: r.After, TraceID: ptr(r.TraceID), PrevHash: hex.EncodeToString(r.PrevHash), Hash: hex.EncodeToString(r.Hash),
	}
}
