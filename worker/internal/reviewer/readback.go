package reviewer

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

// readBack notes where the comments of the plan are, and returns those that are nowhere.
func (p *poster) readBack() (missing []Comment) {
	p.out.Comments, p.out.SummaryURL = p.out.Comments[:0], ""
	for _, s := range p.summaries {
		if s.Ours && hasMark(s.Body, SummaryMarker(p.plan.ReviewID)) {
			p.out.SummaryURL = s.URL
		}
	}
	for _, c := range p.plan.Comments {
		at := PostedComment{Fingerprint: c.Fingerprint}
		if t, there := p.thread(c.Fingerprint); there {
			at.Place, at.ThreadID = OnLine, t.ID
			at.CommentID, at.URL = t.Remarks[0].ID, t.Remarks[0].URL
			at.Line, at.StartLine = t.Line, t.StartLine
			if t.Line == 0 && !t.Outdated {
				at.Place = OnFile
			}
		} else if url, there := p.inSummary(c.Fingerprint); there {
			at.Place, at.URL = InSummary, url
		} else {
			missing = append(missing, c)
			continue
		}
		p.out.Comments = append(p.out.Comments, at)
	}
	return missing
}

// missing returns the fingerprints that are missing, or on another line than planned. A
// thread that was there before stays where the forge has taken it, and so does any once
// the head has moved.
func (p *poster) missing(nowhere []Comment) []string {
	all := []string{}
	for _, c := range nowhere {
		all = append(all, c.Fingerprint)
	}
	for _, c := range p.plan.Comments {
		t, there := p.thread(c.Fingerprint)
		if !there || p.moved || p.was[bare(c.Fingerprint)] || t.Outdated || t.Line == 0 {
			continue
		}
		want := p.fit(c)
		wrong := t.Line != want.Line || t.Side != "" && t.Side != want.Side
		if wrong || t.StartLine != 0 && want.StartLine != 0 && t.StartLine != want.StartLine {
			all = append(all, c.Fingerprint)
		}
	}
	return all
}

// inSummary reports whether a summary of ours has a finding, and its address.
func (p *poster) inSummary(fingerprint string) (string, bool) {
	for _, s := range p.summaries {
		if s.Ours && hasMark(s.Body, Marker(bare(fingerprint))) {
			return s.URL, true
		}
	}
	return "", false
}

// summary returns the text of a review: what is planned, then the comments that no line and
// no file has taken, as many as there is room for, then its marker.
func (p *poster) summary(mark, text string, left []Comment) string {
	var b strings.Builder
	b.WriteString(cut(strings.TrimSpace(text), p.can.MaxBody/2))
	if !p.can.Reply && mark == SummaryMarker(p.plan.ReviewID) {
		for _, r := range p.plan.Resolutions {
			fmt.Fprintf(&b, "\n\n%s", cut(r.Reply, 500))
		}
	}
	room := p.can.MaxBody - utf8.RuneCountInString(b.String()) - len(mark) - 200
	for i, c := range left {
		entry := fmt.Sprintf("\n\n%s: %s", place(c), withMarker(c.Body, c.Fingerprint, 2000))
		if room -= utf8.RuneCountInString(entry); room < 0 {
			fmt.Fprintf(&b, "\n\nThere is no room here for %s.", fault.Count(len(left)-i, "more remark"))
			break
		}
		b.WriteString(entry)
	}
	b.WriteString("\n\n" + mark)
	return b.String()
}

// place names the lines of a comment for people, in Markdown.
func place(c Comment) string {
	side := ""
	if c.Side == review.Left {
		side = " (before the change)"
	}
	switch {
	case c.Line == 0:
		return code(c.Path)
	case c.StartLine > 0 && c.StartLine < c.Line:
		return fmt.Sprintf("%s, lines %d to %d%s", code(c.Path), c.StartLine, c.Line, side)
	}
	return fmt.Sprintf("%s, line %d%s", code(c.Path), c.Line, side)
}

// resolve ends the threads of findings that are fixed: evidence first, then the state. A
// comment is never deleted.
func (p *poster) resolve(ctx context.Context) error {
	for _, r := range p.plan.Resolutions {
		t, there := p.resolvable(r)
		if !there {
			p.out.Unresolved = append(p.out.Unresolved, r.Fingerprint)
			continue
		}
		if t.Resolved {
			p.out.Resolved = append(p.out.Resolved, r.Fingerprint)
			continue
		}
		mark := markOpen + "nofx fixed " + p.plan.ReviewID + markClose
		if p.can.Reply && !answered(t, mark) {
			err := p.host.Reply(ctx, t, cut(r.Reply, p.can.MaxBody-len(mark)-3)+"\n\n"+mark)
			if err != nil && !final(err) {
				return fmt.Errorf("reply in thread %s: %w", t.ID, err)
			}
		}
		switch err := p.host.Resolve(ctx, t); {
		case err == nil:
			p.out.Resolved = append(p.out.Resolved, r.Fingerprint)
		case final(err):
			p.out.Unresolved = append(p.out.Unresolved, r.Fingerprint)
		default:
			return fmt.Errorf("resolve thread %s: %w", t.ID, err)
		}
	}
	return nil
}

// resolvable returns the thread of a resolution, if it is one of ours on this pull request.
func (p *poster) resolvable(r Resolution) (Thread, bool) {
	for _, t := range p.threads {
		if t.ID == r.ThreadID && len(t.Remarks) > 0 && t.Remarks[0].Ours {
			return t, true
		}
	}
	return p.thread(r.Fingerprint)
}

func answered(t Thread, mark string) bool {
	for _, r := range t.Remarks {
		if r.Ours && hasMark(r.Body, mark) {
			return true
		}
	}
	return false
}

// final reports whether an error will be the same at the next try, and so must not keep the
// rest of a review from its end.
func final(err error) bool {
	switch fault.KindOf(err) {
	case fault.Forbidden, fault.NotFound, fault.Invalid, fault.Gone, fault.Conflict:
		return true
	}
	return false
}
