package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"nofx.dev/gateway/api"
	"nofx.dev/gateway/internal/identity"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// searchWithin is how long a list looks for what few of its items are; then the page
// is what was found so far.
const searchWithin = 300 * time.Millisecond

// Limits of a list of runs.
const (
	maxLabels = 8
	maxWords  = 8
	maxSearch = 200 // characters of text
)

var (
	toolShape    = shape{regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*(:([a-z0-9_.-]+|\*))?$`), "a tool such as bash or gate:unit, or a family of tools such as gate:*"}
	traceIDShape = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// listRuns answers the runs of the tenant, newest first.
func (s *Server) listRuns(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	f := postgres.RunFilter{
		Kind:   cmp.Or(oneOf(q, "kind", run.PlanRun, run.SystemRun), run.PlanRun),
		States: anyOf(q, "status", run.RunMachine.States()...), Project: q.slug("project"), Labels: q.labels("label"),
		Tool: q.shaped("tool", toolShape), Words: q.words("q"), Signature: q.word("signature", 128),
		Since: q.time("since"), Until: q.time("until"),
		Limit: q.limit(200), Before: q.afterID("runs"), Within: searchWithin,
	}
	if f.Since != nil && f.Until != nil && !f.Since.Before(*f.Until) {
		q.bad("until", "must be after since")
	}
	if err := q.err(); err != nil {
		return err
	}
	runs, more, err := s.Store.Runs(c.Request().Context(), p.Tenant, f)
	if err != nil {
		return err
	}
	out := api.RunPage{Items: convert(runs, apiRun)}
	out.NextCursor = nextPage(c, "runs", more)
	return answer(c, http.StatusOK, out)
}

// getTrace answers the runs that belong to a trace, newest first. One without runs
// is as unknown as one of another tenant.
func (s *Server) getTrace(c echo.Context, p *identity.Principal) error {
	q := readQuery(c)
	limit, before := q.limit(200), q.afterID("trace")
	if err := q.err(); err != nil {
		return err
	}
	noTrace := fault.New(fault.NotFound, "not-found", "no such trace")
	id := c.Param("trace_id")
	if !traceIDShape.MatchString(id) {
		return noTrace
	}
	runs, err := s.Store.RunsOfTrace(c.Request().Context(), p.Tenant, id, before, limit+1)
	if err != nil {
		return err
	}
	if len(runs) == 0 && before == nil {
		return noTrace
	}
	runs, next := page(c, "trace", runs, limit, func(r run.Run) string { return r.ID.String() })
	return answer(c, http.StatusOK, api.RunPage{Items: convert(runs, apiRun), NextCursor: next})
}

// labels returns values name:value of a parameter that may be given several times.
func (q *query) labels(name string) map[string]string {
	q.asked[name] = true
	given := q.values[name]
	labels := make(map[string]string, len(given))
	for _, l := range given {
		key, value, ok := strings.Cut(l, ":")
		if other, twice := labels[key]; !ok || key == "" || len(key) > 63 || utf8.RuneCountInString(value) > run.MaxLabel || run.BadText(l) != "" || twice && other != value {
			q.bad(name, "must be name:value, each name once")
		}
		labels[key] = value
	}
	if len(given) > maxLabels {
		q.bad(name, fmt.Sprintf("is given more than %d times", maxLabels))
	}
	return labels
}

// word returns "" or a value of so many characters at most.
func (q *query) word(name string, most int) string {
	s, given := q.text(name)
	if given && (s == "" || utf8.RuneCountInString(s) > most) {
		q.bad(name, fmt.Sprintf("must be text of 1 to %d characters", most))
	}
	return s
}

// words returns those of a text to search for.
func (q *query) words(name string) []string {
	words := strings.Fields(q.word(name, maxSearch))
	if _, given := q.text(name); given && (len(words) == 0 || len(words) > maxWords) {
		q.bad(name, fmt.Sprintf("must have 1 to %d words", maxWords))
	}
	return words
}
