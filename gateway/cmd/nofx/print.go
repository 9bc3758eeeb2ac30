package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"nofx.dev/gateway/api"
)

// answer prints raw with --json, otherwise the output of human.
func (a *app) answer(raw []byte, human func(w io.Writer)) error {
	if a.json {
		return a.printJSON(strings.TrimRight(string(raw), "\n"))
	}
	human(a.out)
	return a.output.err
}

// facts writes names and values in two columns, without those that are empty.
func facts(w io.Writer, pairs ...string) {
	var rows [][]string
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			rows = append(rows, []string{pairs[i], clean(pairs[i+1])})
		}
	}
	columns(w, rows)
}

// nextPage prints how to see more.
func nextPage(w io.Writer, cursor *string) {
	if cursor != nil {
		fmt.Fprintf(w, "more: --cursor %s\n", *cursor)
	}
}

// clean makes s one line that cannot steer a terminal: goals, messages and file
// names are other people's text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
}

// deref returns what p points to, or the zero value.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// optional returns a pointer to v, or nil for the zero value.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// clock returns t for people: UTC, to the second.
func clock(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// span returns d for people, to a tenth of a second while it is short.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Truncate(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Truncate(time.Second).String()
	}
	return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
}

// size returns n bytes for people.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < 3 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, []string{"KiB", "MiB", "GiB", "TiB"}[unit])
}

// who returns a subject for people: its name, and the subject itself, since another subject
// may have had the name.
func who(subject api.Subject, name *api.SubjectName) string {
	if name == nil {
		return subject
	}
	return fmt.Sprintf("%s (%s)", *name, subject)
}

// verdict returns a gate's result as a sentence.
func verdict(g api.Gate) string {
	s := fmt.Sprintf("gate %s (%s of step %s) %s", g.ID, g.Name, g.StepName, g.Status)
	if wanted := deref(g.Quorum); g.Status == api.GateStatusPending && wanted > 1 {
		s += fmt.Sprintf(", %d of %d approvals given", len(g.Approvals), wanted)
	}
	if g.DecidedBy != nil && g.Status != api.GateStatusExpired { // whoever noticed is not who decided
		s += ", decided by " + who(*g.DecidedBy, g.DecidedByName)
	}
	if g.DecidedAt != nil {
		s += " at " + clock(g.DecidedAt)
	}
	if g.Reason != nil {
		s += ": " + *g.Reason
	}
	return s
}

// count returns a number with its noun, in the plural unless n is 1.
func count[N int | int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
