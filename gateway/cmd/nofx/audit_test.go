package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

// The first row that is not what was written is named, and the exit code is 1.
func TestS24_VerifyNamesTheBreak(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tamper func(*api.AuditPage, *api.AuditAnchorList)
		want   string
	}{
		"a field": {func(p *api.AuditPage, _ *api.AuditAnchorList) { p.Items[1].Actor = "nobody" }, "at row 1: it was changed"},
		"a number": {func(p *api.AuditPage, _ *api.AuditAnchorList) {
			p.Items[0].After = json.RawMessage(`{"status":"passed","version":2.0}`)
		}, "at row 2: it was changed"},
		"the tail": {func(p *api.AuditPage, a *api.AuditAnchorList) { a.Items[0].Seq, p.Items = 2, p.Items[1:] }, "at row 2: it is missing; on 2026-03-03 the log had 2 rows"},
		"the head": {func(p *api.AuditPage, a *api.AuditAnchorList) { p.Items, a.Items = p.Items[:1], []api.AuditAnchor{} }, "at row 1: it is missing"},
		"all":      {func(p *api.AuditPage, _ *api.AuditAnchorList) { p.Items = nil }, "at row 1: it is missing"},
		"anew":     {func(_ *api.AuditPage, a *api.AuditAnchorList) { a.Items[0].Hash = strings.Repeat("1", 64) }, "at row 1: it is not the row whose hash was stored on 2026-03-03"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			routes := script()
			page, anchors := auditLog(), api.AuditAnchorList{Items: []api.AuditAnchor{{Day: "2026-03-03", Seq: 1, Hash: auditLog().Items[1].Hash, At: ago(90_000)}}}
			tt.tamper(&page, &anchors)
			if page.Items == nil {
				page.Items = []api.AuditRow{}
			}
			routes["listAudit"], routes["listAuditAnchors"] = answer(http.StatusOK, page), answer(http.StatusOK, anchors)
			_, server := newGateway(t, routes)
			got := newCLI(t, server.URL).transcript(t.Context(), "audit", "verify")
			if !strings.Contains(got, "the audit log is broken "+tt.want) || !strings.Contains(got, "exit 1") && !strings.Contains(got, "exit code 1") && !strings.Contains(got, "[1]") {
				t.Errorf("audit verify = %s, want %q and the exit code 1", got, tt.want)
			}
		})
	}
}
