package review_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nofx.dev/shared/review"
)

// finding makes an open finding with its fingerprint.
func finding(path, text, title string, change ...func(*review.Finding)) review.Finding {
	f := review.Finding{
		State: review.Open, Category: review.Correctness, Severity: review.Medium, Confidence: 0.7, Title: title,
		Anchor: review.Anchor{Path: path, Side: review.Right, Line: 10, Text: text, Symbol: "func f()"},
	}
	for _, c := range change {
		c(&f)
	}
	f.Fingerprint = review.Fingerprint(f.Anchor, f.Category, f.Title)
	return f
}

func severity(s review.Severity) func(*review.Finding) {
	return func(f *review.Finding) { f.Severity = s }
}

func round(number int, known, found []review.Finding) review.Round {
	return review.Round{
		Number: number, Now: time.Unix(1000, 0), Policy: review.DefaultPolicy(), Known: known, Found: found,
		Changed: func(review.Anchor) bool { return false },
		Gone:    func(review.Finding) *review.Gone { return nil },
	}
}

// stored returns the findings that a store has after a review.
func stored(s review.Settled) []review.Finding {
	all := slices.Clone(s.Open)
	for _, o := range s.Occurrences {
		if o.Finding.State != review.Open && o.Disposition != review.Duplicate {
			all = append(all, o.Finding)
		}
	}
	for _, f := range s.Fixed {
		all = append(all, f.Finding)
	}
	for i := range all {
		all[i].ID = all[i].Fingerprint
	}
	return all
}

func dispositions(s review.Settled) string {
	var all []string
	for _, o := range s.Occurrences {
		all = append(all, fmt.Sprintf("%s %s %s", o.Finding.Title, o.Disposition, o.Finding.State))
	}
	return strings.Join(all, ", ")
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,6}`), 2, 6).Draw(t, "words")
		title := rapid.StringMatching(`[a-z]{2,6} [A-Z]{2,6} [a-z]{2,6}`).Draw(t, "title")
		space := rapid.SampledFrom([]string{" ", "\t", "   ", "\u00a0"}).Draw(t, "space")
		a := review.Anchor{Path: "a.go", Line: 10, Text: strings.Join(words, " ")}
		want := review.Fingerprint(a, review.Security, title)
		moved := a
		moved.StartLine, moved.Line = 3, 900
		moved.Text = space + strings.Join(words, space) + space
		shuffled := strings.Fields(strings.ToUpper(title))
		slices.Reverse(shuffled)
		if got := review.Fingerprint(moved, review.Security, strings.Join(shuffled, "-")); got != want {
			t.Fatalf("Fingerprint of the line moved and indented = %s, want %s", got, want)
		}
		if len(want) != 12 || want != strings.ToLower(want) {
			t.Fatalf("Fingerprint = %s, want 12 lower-case characters", want)
		}
		for what, other := range map[string]string{
			"another category": review.Fingerprint(a, review.Tests, title),
			"another title":    review.Fingerprint(a, review.Security, title+" zzzzzzz"),
			"another line":     review.Fingerprint(review.Anchor{Path: a.Path, Text: a.Text + " x"}, review.Security, title),
			"the next equal":   review.Fingerprint(review.Anchor{Path: a.Path, Text: a.Text, Index: 1}, review.Security, title),
			"another symbol":   review.Fingerprint(review.Anchor{Path: a.Path, Text: a.Text, Symbol: "func g()"}, review.Security, title),
		} {
			if other == want {
				t.Fatalf("Fingerprint of %s is the same, %s", what, want)
			}
		}
	})
}

func TestMatch(t *testing.T) {
	t.Parallel()
	nilCheck := finding("a.go", "x := *p", "p may be nil")
	reworded := finding("a.go", "x := *p", "nil pointer")
	otherAbout := finding("a.go", "x := *p", "leaks", func(f *review.Finding) { f.Category = review.Security })
	for _, test := range []struct {
		name         string
		known, found []review.Finding
		renames      map[string]string
		want         []int
	}{
		{"exact", []review.Finding{nilCheck}, []review.Finding{nilCheck}, nil, []int{0}},
		{"other wording", []review.Finding{nilCheck}, []review.Finding{reworded}, nil, []int{0}},
		{"exact before other wording", []review.Finding{reworded, nilCheck}, []review.Finding{nilCheck}, nil, []int{1}},
		{"other category", []review.Finding{nilCheck}, []review.Finding{otherAbout}, nil, []int{-1}},
		{"two candidates known", []review.Finding{nilCheck, finding("a.go", "x := *p", "panics")}, []review.Finding{reworded}, nil, []int{-1}},
		{"two candidates found", []review.Finding{nilCheck}, []review.Finding{reworded, finding("a.go", "x := *p", "panics")}, nil, []int{-1, -1}},
		{"two on one line", []review.Finding{nilCheck, otherAbout}, []review.Finding{otherAbout, nilCheck}, nil, []int{1, 0}},
		{"renamed", []review.Finding{nilCheck}, []review.Finding{finding("b.go", "x := *p", "p may be nil")}, map[string]string{"b.go": "a.go"}, []int{0}},
		{"renamed and reworded", []review.Finding{nilCheck}, []review.Finding{finding("b.go", "x  :=  *p", "nil pointer")}, map[string]string{"b.go": "a.go"}, []int{0}},
		{"another file", []review.Finding{nilCheck}, []review.Finding{finding("b.go", "x := *p", "p may be nil")}, map[string]string{"c.go": "a.go"}, []int{-1}},
		{"without a line", []review.Finding{finding("a.go", "", "one")}, []review.Finding{finding("a.go", "", "two")}, nil, []int{-1}},
	} {
		if got := review.Match(test.known, test.found, test.renames); !slices.Equal(got, test.want) {
			t.Errorf("%s: Match = %v, want %v", test.name, got, test.want)
		}
	}
}

// TestSettleAgain: whatever was found, finding it again posts nothing.
func TestSettleAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		draw := rapid.Custom(func(t *rapid.T) review.Finding {
			return finding(rapid.SampledFrom([]string{"a.go", "b.go"}).Draw(t, "path"), rapid.StringMatching(`[ab]{1,2}`).Draw(t, "text"),
				rapid.StringMatching(`[cd]{1,2}`).Draw(t, "title"), severity(rapid.SampledFrom(review.Severities).Draw(t, "severity")))
		})
		found := rapid.SliceOfN(draw, 0, 40).Draw(t, "found")
		first := review.Settle(round(1, nil, found))
		open := len(first.Open)
		known := stored(first)
		for n := 2; n < 5; n++ {
			again := review.Settle(round(n, known, rapid.Permutation(found).Draw(t, "order")))
			for _, o := range again.Occurrences {
				if o.Disposition != review.Duplicate {
					t.Fatalf("review %d: %s is %s, want a duplicate", n, o.Finding.Title, o.Disposition)
				}
			}
			if len(again.Open) != open || len(again.Fixed) != 0 {
				t.Fatalf("review %d leaves %d open and fixes %d, want %d open", n, len(again.Open), len(again.Fixed), open)
			}
			known = stored(again)
		}
	})
}

func TestSettle(t *testing.T) {
	t.Parallel()
	a, b := finding("a.go", "x := *p", "one"), finding("b.go", "y := *q", "two")
	was := func(s review.State, d *review.Dismissal, f review.Finding) []review.Finding {
		f.ID, f.State, f.Dismissal = "f1", s, d
		return []review.Finding{f}
	}
	past, future := time.Unix(999, 0), time.Unix(1001, 0)
	quiet := finding("b.go", "y := *q", "quiet", severity(review.Low))
	loud := finding("b.go", "y := *q", "loud", severity(review.High))
	for _, test := range []struct {
		name string
		r    review.Round
		want string
		open int
	}{
		{"new", round(1, nil, []review.Finding{a}), "one posted open", 1},
		{"known", round(2, was(review.Open, nil, a), []review.Finding{a}), "one duplicate open", 1},
		{"known and not found", round(2, was(review.Open, nil, a), nil), "", 1},
		{"fixed and back", round(2, was(review.Fixed, nil, a), []review.Finding{a}), "one posted open", 1},
		{"resolved and found", round(2, was(review.Resolved, nil, a), []review.Finding{a}), "one duplicate resolved", 0},
		{"dismissed and found", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeThis}, a), []review.Finding{a}), "one duplicate dismissed", 0},
		{"dismissed until later", round(2, was(review.Dismissed, &review.Dismissal{Expires: &future}, a), []review.Finding{a}), "one duplicate dismissed", 0},
		{"dismissed until now", round(2, was(review.Dismissed, &review.Dismissal{Expires: &past}, a), []review.Finding{a}), "one duplicate open", 1},
		{"dismissed until now, not found", round(2, was(review.Dismissed, &review.Dismissal{Expires: &past}, a), nil), "", 1},
		{"this does not cover others", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeThis}, a), []review.Finding{b}), "two posted open", 1},
		{"path covers the file", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopePath}, a), []review.Finding{finding("a.go", "z", "three")}), "three rejected dismissed", 0},
		{"path covers no other file", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopePath}, a), []review.Finding{b}), "two posted open", 1},
		{"rule covers all files", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeRule}, a), []review.Finding{b}), "two rejected dismissed", 0},
		{"rule covers its kind", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeRule}, a), []review.Finding{finding("b.go", "y", "two", func(f *review.Finding) { f.RuleID = "r" })}), "two posted open", 1},
		{"dismissed as low, and worse by another word", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeThis}, quiet), []review.Finding{loud}), "loud posted open", 1},
		{"resolved as low, and worse by another word", round(2, was(review.Resolved, nil, quiet), []review.Finding{loud}), "loud posted open", 1},
		{"dismissed as high, and so by another word", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeThis}, loud), []review.Finding{finding("b.go", "y := *q", "shrill", severity(review.High))}), "shrill duplicate dismissed", 0},
		{"dismissed as low, and low by another word", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeThis}, quiet), []review.Finding{finding("b.go", "y := *q", "soft", severity(review.Low))}), "soft duplicate dismissed", 0},
		{"rule never hides high", round(2, was(review.Dismissed, &review.Dismissal{Scope: review.ScopeRule}, a), []review.Finding{loud}), "loud posted open", 1},
		{"low on the second review", round(2, nil, []review.Finding{quiet}), "quiet posted open", 1},
		{"low on the third", round(3, nil, []review.Finding{quiet}), "quiet capped open", 1},
		{"twice", round(1, nil, []review.Finding{a, a}), "one posted open, one duplicate open", 1},
		{"the worst first", round(1, nil, []review.Finding{quiet, a, loud}), "loud posted open, one posted open, quiet posted open", 3},
		{"of a file", round(1, nil, []review.Finding{finding("a.go", "", "file", func(f *review.Finding) { f.Anchor.Line = 0 })}), "file demoted open", 1},
	} {
		s := review.Settle(test.r)
		if got := dispositions(s); got != test.want || len(s.Open) != test.open {
			t.Errorf("%s: Settle = %q with %d open, want %q with %d", test.name, got, len(s.Open), test.want, test.open)
		}
	}

	for _, test := range []struct{ known, found, want review.Severity }{
		{review.High, review.Low, review.High}, {review.Low, review.High, review.High}, {review.Low, review.Low, review.Low},
	} {
		s := review.Settle(round(2, was(review.Open, nil, finding("a.go", "x", "t", severity(test.known))), []review.Finding{finding("a.go", "x", "t", severity(test.found))}))
		if got := s.Open[0].Severity; got != test.want {
			t.Errorf("a known finding of %s found as %s is %s, want %s", test.known, test.found, got, test.want)
		}
	}

	// Dismissals of other changes cover what is new in this one, and are no findings of it.
	for _, test := range []struct {
		name string
		d    review.Dismissal
		of   review.Finding
		want string
		open int
	}{
		{"the same finding", review.Dismissal{Scope: review.ScopeRule}, a, "one rejected dismissed", 0},
		{"the same finding, severity high", review.Dismissal{Scope: review.ScopeRule}, finding("a.go", "x := *p", "one", severity(review.High)), "one posted open", 1},
		{"the same finding, expired", review.Dismissal{Scope: review.ScopeRule, Expires: &past}, a, "one posted open", 1},
	} {
		r := round(1, nil, []review.Finding{test.of})
		r.Dismissed = was(review.Dismissed, &test.d, test.of)
		s := review.Settle(r)
		if got := dispositions(s); got != test.want || len(s.Open) != test.open || s.Occurrences[0].Finding.ID != "" {
			t.Errorf("%s, dismissed in another change: Settle = %q with %d open, as finding %q, want %q with %d, as a new one", test.name, got, len(s.Open), s.Occurrences[0].Finding.ID, test.want, test.open)
		}
	}
	r := round(1, nil, nil)
	r.Dismissed = was(review.Dismissed, &review.Dismissal{Scope: review.ScopeRule, Expires: &past}, a)
	if s := review.Settle(r); len(s.Open) != 0 || len(s.Fixed) != 0 {
		t.Errorf("a dismissal of another change has expired: Settle = %+v, want nothing of it", s)
	}

	r = round(3, nil, []review.Finding{quiet})
	r.Changed = func(review.Anchor) bool { return true }
	if got, want := dispositions(review.Settle(r)), "quiet posted open"; got != want {
		t.Errorf("on a line changed since: Settle = %q, want %q", got, want)
	}
	r = round(3, nil, []review.Finding{quiet})
	r.Policy.Block = review.Threshold{Severity: review.Info}
	if got, want := dispositions(review.Settle(r)), "quiet posted open"; got != want {
		t.Errorf("of what blocks: Settle = %q, want %q", got, want)
	}
	r = round(1, nil, []review.Finding{quiet, a, loud})
	r.Policy.Limits.InlineComments = 2
	if got, want := dispositions(review.Settle(r)), "loud posted open, one posted open, quiet capped open"; got != want {
		t.Errorf("with room for 2: Settle = %q, want %q", got, want)
	}
	r = round(2, append(was(review.Open, nil, a), b), nil)
	r.Gone = func(f review.Finding) *review.Gone {
		if f.Title == "one" {
			return &review.Gone{Reason: "line_gone"}
		}
		return nil
	}
	if s := review.Settle(r); len(s.Fixed) != 1 || s.Fixed[0].Finding.ID != "f1" || s.Fixed[0].Finding.State != review.Fixed || len(s.Open) != 1 {
		t.Errorf("Settle = %+v, want one fixed and two open", s)
	}
}
