package review

import "slices"

// Match returns for each of found the index of the known finding that it is, or -1: the one
// with its fingerprint; else the one at the same place, which is worded otherwise, if there
// is no other candidate on either side, and if a person who settled it had as bad a one
// before them; else the same two in the file's old path. renames has the old path of each
// renamed file. No known finding is matched twice.
func Match(known, found []Finding, renames map[string]string) []int {
	m := matcher{known, found, slices.Repeat([]int{-1}, len(found)), make([]bool, len(known))}
	same := func(f Finding) Finding { return f }
	before := func(f Finding) Finding {
		f.Anchor.Path = renames[f.Anchor.Path]
		f.Fingerprint = Fingerprint(f.Anchor, f.Category, f.Title)
		return f
	}
	m.byFingerprint(same)
	m.byPlace(same)
	m.byFingerprint(before)
	m.byPlace(before)
	return m.of
}

type matcher struct {
	known, found []Finding
	of           []int  // of each found one
	taken        []bool // of each known one
}

func (m *matcher) take(found, known int) { m.of[found], m.taken[known] = known, true }

func (m *matcher) byFingerprint(view func(Finding) Finding) {
	at := map[string]int{}
	for i, k := range m.known {
		if !m.taken[i] {
			at[k.Fingerprint] = i
		}
	}
	for i, f := range m.found {
		if k, ok := at[view(f).Fingerprint]; ok && m.of[i] < 0 && !m.taken[k] {
			m.take(i, k)
		}
	}
}

// place is where a finding is, and what about.
type place struct {
	path     string
	category Category
	text     string
}

func (m *matcher) byPlace(view func(Finding) Finding) {
	known, found := map[place][]int{}, map[place][]int{}
	add := func(to map[place][]int, i int, f Finding) {
		if text := Normal(f.Anchor.Text); text != "" && f.Anchor.Path != "" {
			p := place{f.Anchor.Path, f.Category, text}
			to[p] = append(to[p], i)
		}
	}
	for i, k := range m.known {
		if !m.taken[i] {
			add(known, i, k)
		}
	}
	for i, f := range m.found {
		if m.of[i] < 0 {
			add(found, i, view(f))
		}
	}
	for p, f := range found {
		if k := known[p]; len(k) == 1 && len(f) == 1 && !m.known[k[0]].settledBelow(m.found[f[0]]) {
			m.take(f[0], k[0])
		}
	}
}

// settledBelow reports whether a person has resolved or dismissed f as less severe than next,
// which is high or worse: other words for it may say something that nobody decided about.
func (f Finding) settledBelow(next Finding) bool {
	return (f.State == Resolved || f.State == Dismissed) && next.Severity.Reaches(High) && !f.Severity.Reaches(next.Severity)
}
