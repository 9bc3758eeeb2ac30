package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"pgregory.net/rapid"

	"nofx.dev/gateway/api"
)

func TestCursors(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SampledFrom([]string{"runs", "steps", "files"}).Draw(t, "list")
		place := strings.ToValidUTF8(strings.ReplaceAll(rapid.String().Draw(t, "place"), "\x00", ""), "")
		cursor := formatCursor(list, place)
		if got, err := parseCursor(list, cursor); err != nil || got != place {
			t.Fatalf("parseCursor(%q) = %q, %v, want %q", cursor, got, err, place)
		}
		if _, err := parseCursor(list+"x", cursor); err == nil {
			t.Fatalf("parseCursor of another list took %q", cursor)
		}
	})
}

// FuzzCursor checks that a cursor that is taken is one that was given.
func FuzzCursor(f *testing.F) {
	f.Add(formatCursor("runs", "x"))
	f.Add("cnVuczp4")
	f.Add("=")
	f.Fuzz(func(t *testing.T, s string) {
		if place, err := parseCursor("runs", s); err == nil && formatCursor("runs", place) != s {
			t.Errorf("parseCursor(%q) = %q, which is the place of %q", s, place, formatCursor("runs", place))
		}
	})
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		given []string
		want  int64 // -1: any version
		bad   bool
	}{
		{nil, -1, false}, {[]string{"*"}, -1, false}, {[]string{`"v1"`}, 1, false}, {[]string{` "v12" `}, 12, false},
		{[]string{`v1`}, 0, true}, {[]string{`"1"`}, 0, true}, {[]string{`W/"v1"`}, 0, true}, {[]string{`"v1", "v2"`}, 0, true},
		{[]string{`"v-1"`}, 0, true}, {[]string{``}, 0, true}, {[]string{`"v1"`, `"v1"`}, 0, true}, {[]string{`"v99999999999999999999"`}, 0, true},
	} {
		req := httptest.NewRequest(http.MethodPost, "/", nil)
		req.Header["If-Match"] = tc.given
		got, err := ifMatch(echo.New().NewContext(req, nil))
		version := int64(-1)
		if got != nil {
			version = *got
		}
		if (err != nil) != tc.bad || err == nil && version != tc.want {
			t.Errorf("ifMatch(%q) = %d, %v, want %d, bad %v", tc.given, version, err, tc.want, tc.bad)
		}
	}
}

// What a parameter may be is said in words, not as the pattern that checks it.
func TestShapesInWords(t *testing.T) {
	g := newGateway(t)
	for query, want := range map[string]string{
		"/api/events?types=run":      "types must be a list of event types, separated by commas, such as run.succeeded or run.*; the nouns are approval, artifact, bisect, checkpoint, finding, gate, merge, review, run, step",
		"/api/events?run=x":          "run must be a list of run ids, separated by commas; an id is run_ and 32 digits of 0 to 9 and a to f",
		"/api/events?project=A":      "project must be a slug: 1 to 63 of a to z, 0 to 9 and '-', not beginning with '-'",
		"/api/runs?tool=a:b:c":       "tool must be a tool such as bash or gate:unit, or a family of tools such as gate:*",
		"/api/gates?name=A":          "name must be the name of a gate: 1 to 64 of a to z, 0 to 9, '_', '.' and '-', the first a letter or digit",
		"/api/dead-letters?project=": "project must be a slug: 1 to 63 of a to z, 0 to 9 and '-', not beginning with '-'",
	} {
		r := g.get(query)
		g.want(r, http.StatusBadRequest, "bad-parameter")
		if got := decodeAs[api.Problem](t, r).Detail; got != want {
			t.Errorf("GET %s = %q, want %q", query, got, want)
		}
	}
	r := g.do(http.MethodPost, "/api/dead-letters/requeue", `{"project":"A"}`)
	g.want(r, http.StatusUnprocessableEntity, "invalid-field")
	if got, want := decodeAs[api.Problem](t, r).Detail, "/project: is a slug: 1 to 63 of a to z, 0 to 9 and '-', not beginning with '-'"; got != want {
		t.Errorf("requeue of project A = %q, want %q", got, want)
	}
}

func TestParseRange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s        string
		from, to int64
		ok       bool
	}{
		{"bytes=0-0", 0, 1, true}, {"bytes=0-9", 0, 10, true}, {"bytes=0-99", 0, 10, true}, {"bytes=5-", 5, 10, true}, {"bytes=-3", 7, 10, true},
		{"bytes=-99", 0, 10, true}, {"bytes=9-9", 9, 10, true}, {"bytes=10-", 10, 10, true}, {"bytes=10-11", 10, 10, true}, {"bytes=-0", 10, 10, true},
		{"bytes=", 0, 0, false}, {"bytes=-", 0, 0, false}, {"bytes=2-1", 0, 0, false}, {"bytes=a-b", 0, 0, false}, {"bytes=0-1,3-4", 0, 0, false},
		{"lines=0-1", 0, 0, false}, {"0-1", 0, 0, false}, {"bytes=+1-2", 0, 0, false}, {"bytes=1--2", 0, 0, false},
		{"bytes=99999999999999999999-", 0, 0, false},
	} {
		from, to, ok := parseRange(tc.s, 10)
		if ok != tc.ok || ok && (from != tc.from || to != tc.to) {
			t.Errorf("parseRange(%q, 10) = %d, %d, %v, want %d, %d, %v", tc.s, from, to, ok, tc.from, tc.to, tc.ok)
		}
	}
}

func TestWholeRunes(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"": "", "a": "a", "aé": "aé", "aé"[:2]: "a", "😀": "😀", "a😀"[:4]: "a", "a😀"[:2]: "a", "\xff": "\xff", "a\x80": "a\x80",
		"\x80\x80\x80\x80": "\x80\x80\x80\x80",
	} {
		if got := string(wholeRunes([]byte(s))); got != want {
			t.Errorf("wholeRunes(%q) = %q, want %q", s, got, want)
		}
	}
}
