package httpapi

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// shape is the form of a value, as a pattern and in words.
type shape struct {
	*regexp.Regexp
	words string
}

// slugShape is that of the contract's Slug.
var slugShape = shape{regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`), "a slug: 1 to 63 of a to z, 0 to 9 and '-', not beginning with '-'"}

// query reads the query parameters of a request. Each method reads one and
// collects what is wrong; err says all of it at the end, parameters that nobody
// asked for included.
type query struct {
	values url.Values
	asked  map[string]bool
	fields []fault.Field
	cursor error
}

func readQuery(c echo.Context) *query {
	q := &query{asked: map[string]bool{}}
	var err error
	if q.values, err = url.ParseQuery(c.Request().URL.RawQuery); err != nil {
		q.bad("", "the query cannot be read")
	}
	return q
}

// noQuery refuses any parameter.
func noQuery(c echo.Context) error { return readQuery(c).err() }

func (q *query) bad(name, detail string) {
	q.fields = append(q.fields, fault.Field{Pointer: "/" + name, Detail: detail})
}

// err returns what is wrong with the parameters, as fault.Invalid: bad-parameter, or
// bad-cursor when only the cursor is wrong.
func (q *query) err() error {
	for name := range q.values {
		if !q.asked[name] {
			q.bad(pointerToken(name), "is not a parameter of this operation")
		}
	}
	if len(q.fields) == 0 {
		return q.cursor
	}
	slices.SortFunc(q.fields, func(a, b fault.Field) int { return strings.Compare(a.Pointer, b.Pointer) })
	f := q.fields[0]
	e := fault.New(fault.Invalid, "bad-parameter", "%s %s", strings.TrimPrefix(f.Pointer, "/"), f.Detail)
	e.Fields = q.fields[:min(len(q.fields), 20)]
	return e
}

func pointerToken(name string) string {
	name = strings.ToValidUTF8(name[:min(len(name), 100)], "\uFFFD")
	return strings.NewReplacer("~", "~0", "/", "~1", "\x00", "\uFFFD").Replace(name)
}

func badParameter(name, detail string) error {
	e := fault.New(fault.Invalid, "bad-parameter", "%s: %s", name, detail)
	e.Fields = []fault.Field{{Pointer: "/" + name, Detail: detail}}
	return e
}

// text returns the value of a parameter that may be given once.
func (q *query) text(name string) (value string, given bool) {
	q.asked[name] = true
	values := q.values[name]
	if len(values) > 1 {
		q.bad(name, "is given more than once")
	}
	if len(values) == 0 {
		return "", false
	}
	if detail := run.BadText(values[0]); detail != "" {
		q.bad(name, detail)
		return "", false
	}
	return values[0], true
}

func (q *query) number(name string, least, most, def int64) int64 {
	s, given := q.text(name)
	if !given {
		return def
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		q.bad(name, fmt.Sprintf("must be a number from %d to %d", least, most))
		return def
	}
	return n
}

// limit returns how many items the page may have.
func (q *query) limit(most int64) int { return int(q.number("limit", 1, most, 50)) }

// oneOf returns one of the values allowed, or "".
func oneOf[T ~string](q *query, name string, allowed ...T) T {
	s, given := q.text(name)
	if given && !slices.Contains(allowed, T(s)) {
		q.bad(name, fmt.Sprintf("must be one of %v", allowed))
	}
	return T(s)
}

func (q *query) slug(name string) string { return q.shaped(name, slugShape) }

// shaped returns a value of the shape, or "".
func (q *query) shaped(name string, of shape) string {
	s, given := q.text(name)
	if given && !of.MatchString(s) {
		q.bad(name, "must be "+of.words)
	}
	return s
}

// anyOf returns the values of a list separated by commas, each one of those allowed.
func anyOf[T ~string](q *query, name string, allowed ...T) (values []T) {
	s, given := q.text(name)
	if !given {
		return nil
	}
	for v := range strings.SplitSeq(s, ",") {
		if !slices.Contains(allowed, T(v)) {
			q.bad(name, fmt.Sprintf("must be a list of %v, separated by commas", allowed))
			return nil
		}
		if !slices.Contains(values, T(v)) {
			values = append(values, T(v))
		}
	}
	return values
}

// time returns a time, or nil.
func (q *query) time(name string) *time.Time {
	s, given := q.text(name)
	if !given {
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		q.bad(name, "must be a time such as 2026-01-31T12:00:00Z, with + written as %2B")
		return nil
	}
	return &t
}

// list returns the values of a list separated by commas, of which there may be most. The
// shape describes the list, too, when it is refused.
func (q *query) list(name string, most int, of shape) []string {
	s, given := q.text(name)
	if !given {
		return nil
	}
	values := strings.Split(s, ",")
	if len(values) > most {
		q.bad(name, fmt.Sprintf("has more than %d values", most))
	}
	for _, v := range values {
		if !of.MatchString(v) {
			q.bad(name, "must be "+of.words)
			break
		}
	}
	return values
}

// A cursor names its list and a place in it: base64url of <list>:<place>. Clients
// hand it back as it is.
func formatCursor(list, place string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(list + ":" + place))
}

func parseCursor(list, s string) (place string, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	place, ok := strings.CutPrefix(string(raw), list+":")
	if err != nil || !ok || formatCursor(list, place) != s || run.BadText(place) != "" {
		return "", badCursor()
	}
	return place, nil
}

func badCursor() error {
	return fault.New(fault.Invalid, "bad-cursor", "this is not a cursor of this list")
}

// place returns the place in a list that the cursor names, and whether there is one.
func (q *query) place(list string) (place string, given bool) {
	s, given := q.text("cursor")
	if !given {
		return "", false
	}
	place, err := parseCursor(list, s)
	if err != nil {
		q.cursor = err
		return "", false
	}
	return place, true
}

// afterID returns the id that the cursor of a list names, nil for the first page.
func (q *query) afterID(list string) *uuid.UUID {
	place, given := q.place(list)
	if !given {
		return nil
	}
	id, err := uuid.Parse(place)
	if err != nil || id.String() != place {
		q.cursor = badCursor()
		return nil
	}
	return &id
}

// afterNumber returns the number that the cursor of a list names, or first.
func (q *query) afterNumber(list string, first int64) int64 {
	place, given := q.place(list)
	if !given {
		return first
	}
	n, err := strconv.ParseInt(place, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != place {
		q.cursor = badCursor()
		return first
	}
	return n
}

// page cuts off the item that was read beyond limit to see whether there are more,
// and makes the cursor and the Link header of the next page, nil on the last.
func page[T any](c echo.Context, list string, items []T, limit int, place func(T) string) ([]T, *string) {
	if len(items) <= limit {
		return items, nil
	}
	items = items[:limit]
	next := formatCursor(list, place(items[limit-1]))
	linkNext(c, "cursor", next)
	return items, &next
}

// nextPage returns the cursor of the page after an id and sets its Link header; nil when
// there is none.
func nextPage(c echo.Context, list string, after *uuid.UUID) *string {
	if after == nil {
		return nil
	}
	next := formatCursor(list, after.String())
	linkNext(c, "cursor", next)
	return &next
}

func linkNext(c echo.Context, name, cursor string) {
	u := *c.Request().URL
	values := u.Query()
	values.Set(name, cursor)
	u.RawQuery = values.Encode()
	c.Response().Header().Set("Link", fmt.Sprintf("<%s>; rel=\"next\"", u.RequestURI()))
}

// convert applies fn to each item; the list is never null.
func convert[A, B any](items []A, fn func(A) B) []B {
	out := make([]B, len(items))
	for i, item := range items {
		out[i] = fn(item)
	}
	return out
}

// pathID reads an id of the path. One of another noun is fault.NotFound.
func pathID(c echo.Context, noun run.Prefix, name string) (uuid.UUID, error) {
	return noun.Parse(c.Param(name))
}

// ifMatch returns the version required by If-Match, or nil.
func ifMatch(c echo.Context) (*int64, error) {
	given := c.Request().Header.Values("If-Match")
	if len(given) == 0 || len(given) == 1 && strings.TrimSpace(given[0]) == "*" {
		return nil, nil
	}
	if len(given) == 1 {
		digits, ok := strings.CutPrefix(strings.TrimSpace(given[0]), `"v`)
		digits, closed := strings.CutSuffix(digits, `"`)
		if v, err := strconv.ParseInt(digits, 10, 64); err == nil && ok && closed && v >= 0 {
			return &v, nil
		}
	}
	return nil, badParameter("If-Match", `one ETag from an earlier response: "v<version>"`)
}

func setETag(c echo.Context, version int64) {
	c.Response().Header().Set("ETag", etag(version))
}

func etag(version int64) string { return fmt.Sprintf(`"v%d"`, version) }

// acceptsStream reports whether the caller wants a stream of events.
func acceptsStream(r *http.Request) bool {
	if r.Method == http.MethodHead {
		return false
	}
	for _, accept := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(accept, ",") {
			media, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(media), "text/event-stream") {
				return true
			}
		}
	}
	return false
}

// ValidSlug reports whether s may name a tenant or a project.
func ValidSlug(s string) bool { return slugShape.MatchString(s) }
