package reviewer

import (
	"path"
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

// maxHead is how many files a review wants to have at the most, as each is a call of the forge.
const maxHead = 100

// HeadPaths returns the files of which a review wants to have the text at the head: those
// with open findings, to see whether a line is gone, and as far as there is room Go files, to
// see whether they parse with a suggestion.
func HeadPaths(diff string, known []review.Finding) []string {
	files, _ := ParseDiff(diff) // the review says what is wrong with it
	renamed := renames(files)
	var paths []string
	add := func(p string) {
		if len(paths) < maxHead && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	for _, k := range known {
		if k.State == review.Open {
			add(now(renamed, k.Anchor.Path))
		}
	}
	for _, f := range files {
		if path.Ext(f.Path) == ".go" && f.Change != Deleted && len(f.Hunks) > 0 {
			add(f.Path)
		}
	}
	slices.Sort(paths)
	return paths
}

// renames returns the new path of each renamed file by the old one.
func renames(files []File) map[string]string {
	to := map[string]string{}
	for _, f := range files {
		if f.Change == Renamed {
			to[f.OldPath] = f.Path
		}
	}
	return to
}

// now returns the path that a file has after renames.
func now(renamed map[string]string, p string) string {
	if to, ok := renamed[p]; ok {
		return to
	}
	return p
}

// gone returns the evidence that an open finding is fixed: its line is not at the head any
// more, and what it was in was reviewed as a whole without finding it again. A line that
// is merely out of sight of the diff is not gone, unless the diff is all there is of the change.
func (v *pass) gone(k review.Finding) *review.Gone {
	p := now(v.renamed, k.Anchor.Path)
	f, inDiff := v.view.shown[p]
	left := v.in.Whole && !inDiff // the change has nothing to do with the file any more
	if len(v.errors) > 0 || k.Anchor.Text == "" && !left {
		return nil
	}
	missing := func(s review.Skip) bool { return s.Path == p }
	if inDiff && (!v.asked[p] || v.failed[p]) || slices.ContainsFunc(v.in.Missing, missing) {
		return nil
	}
	evidence := &review.Gone{Reason: review.LineGone, Path: p, Text: k.Anchor.Text, Head: v.in.HeadSHA}
	if v.inSight(f)[k.Anchor.Side][k.Anchor.Text] {
		return nil
	}
	if k.Anchor.Side == review.Left { // deleted lines are in the diff, all of them
		return evidence
	}
	text, known := v.in.Head[p]
	switch {
	case inDiff && f.Change == Deleted, known && text == nil:
		evidence.Reason = review.FileDeleted
	case inDiff && f.Change == Added: // all of the file is in the diff
	case v.in.Whole:
		evidence.Reason = review.NotInChange
	case !known, v.atHead(p, *text)[k.Anchor.Text]:
		return nil
	}
	return evidence
}

// inSight returns the lines that the diff shows of a file, as they are compared, by side.
func (v *pass) inSight(f File) map[review.Side]map[string]bool {
	if v.sight[f.Path] == nil {
		lines := map[review.Side]map[string]bool{review.Left: {}, review.Right: {}}
		for _, h := range f.Hunks {
			for _, l := range h.Lines {
				side, _ := l.Place()
				lines[side][review.Normal(l.Text)] = true
			}
		}
		v.sight[f.Path] = lines
	}
	return v.sight[f.Path]
}

// atHead returns the lines of a file at the head as they are compared, and as they are shown.
func (v *pass) atHead(p, text string) map[string]bool {
	if v.head[p] == nil {
		lines := map[string]bool{}
		for line := range strings.SplitSeq(v.Redact(text), "\n") {
			var n int
			lines[review.Normal(visible(clean(line), &n))] = true
		}
		v.head[p] = lines
	}
	return v.head[p]
}
