package steplog

import (
	"slices"
	"strings"
)

const (
	maxHold = 64 << 10 // bytes held back while a secret may still go on
	overlap = 4 << 10  // what a forced cut keeps, longer than any one-line secret
)

// probe follows text to see whether a secret at its end is still open: what masks
// a word after it would have masked what really follows.
const probe = "continued\n"

const unredacted = "[nofx] output dropped: it could not be redacted\n"

// sieve makes clean, redacted text of output that comes in any pieces. Text is
// let through by whole lines, and only where no secret goes on in the next line:
// an open private key is held until it ends.
type sieve struct {
	redact func(string) string // nil lets everything through at once
	rest   []byte              // a broken-off UTF-8 sequence
	held   []byte              // clean, not yet redacted
	again  int                 // length of held from which on it is looked at again
}

// pass takes p and returns what may go out now.
func (s *sieve) pass(p []byte) []byte {
	raw := p
	if len(s.rest) > 0 {
		raw = append(s.rest, p...)
	}
	had := len(s.held)
	var rest []byte
	s.held, rest = appendClean(s.held, raw, false)
	s.rest = slices.Clone(rest)
	if s.redact == nil {
		out := s.held
		s.held = nil
		return out
	}
	if len(s.held) < maxHold && (len(s.held) < s.again || !slices.ContainsFunc(s.held[had:], lineEnd)) {
		return nil // nothing that could be decided anew
	}
	out := s.release()
	s.again = 0
	if out == nil && len(s.held) > overlap {
		s.again = len(s.held) + len(s.held)/4 // a long secret is not looked through again for every line
	}
	return out
}

// end returns all that is left.
func (s *sieve) end() []byte {
	s.held, _ = appendClean(s.held, s.rest, true)
	out := string(s.held)
	s.held, s.rest = nil, nil
	if s.redact != nil {
		out, _ = s.masked(out)
	}
	return []byte(out)
}

func lineEnd(b byte) bool { return b == '\n' || b == '\r' }

func (s *sieve) release() []byte {
	held := string(s.held)
	if n := strings.LastIndexAny(held, "\r\n") + 1; n > 0 {
		out, ok := s.masked(held[:n] + probe)
		if !ok {
			s.held = nil
			return []byte(out)
		}
		if before, closed := strings.CutSuffix(out, probe); closed {
			s.held = append(s.held[:0], held[n:]...)
			return []byte(before)
		}
	}
	if len(held) < maxHold {
		return nil
	}
	// An endless line or an endless secret. Cut where the parts are masked as the
	// whole is, so that no secret lies across; failing that, let all of it go.
	whole, _ := s.masked(held)
	for n := len(held) - overlap; n > 0; n -= overlap {
		for n > 0 && held[n]&0xC0 == 0x80 {
			n-- // not within a character
		}
		before, _ := s.masked(held[:n])
		after, _ := s.masked(held[n:])
		if before+after == whole {
			s.held = append(s.held[:0], held[n:]...)
			return []byte(before)
		}
	}
	s.held = nil
	return []byte(whole)
}

// masked redacts text. What cannot be redacted does not go out.
func (s *sieve) masked(text string) (out string, ok bool) {
	defer func() {
		if recover() != nil {
			out, ok = unredacted, false
		}
	}()
	return s.redact(text), true
}
