// Package sieve makes text fit to leave the worker: valid UTF-8 without NUL, and
// without secrets. Logs, evidence, outputs, reasons and prompts all pass it.
//
// [Clean] and a redactor do for text that is there as a whole. A [Sieve] is for text
// that comes in pieces and a [Tail] for the end of such text. Whatever shortens text
// does so afterwards: half a secret is not recognised any more, and a private key
// without its first line is not either.
package sieve

import (
	"slices"
	"strings"
)

const (
	maxHold = 64 << 10 // bytes held back while a secret may still go on
	overlap = 4 << 10  // what a forced cut keeps, longer than any one-line secret
)

// probe follows text to see whether a secret at its end is still open: what masks
// a word after it would have masked what really follows. It looks more like a secret
// than other words do.
const probe = "continued0123456789\n"

const unredacted = "[nofx] output dropped: it could not be redacted\n"

// Sieve makes clean, redacted text of output that comes in any pieces. Text is
// let through by whole lines, and only where no secret goes on in the next line:
// an open private key is held until it ends. Of one that is longer than what may be
// held nothing comes out either: everything is dropped up to the first character
// that cannot belong to a key.
type Sieve struct {
	redact func(string) string // nil lets everything through at once
	rest   []byte              // a broken-off UTF-8 sequence
	held   []byte              // clean, not yet redacted
	again  int                 // length of held from which on it is looked at again
	inside bool                // held goes on with a secret whose beginning was let go
}

// New makes a Sieve. redact masks the secrets of a whole text; nil masks nothing.
func New(redact func(string) string) Sieve { return Sieve{redact: redact} }

// Pass takes p and returns what may go out now.
func (s *Sieve) Pass(p []byte) []byte {
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
	s.skip()
	if len(s.held) < maxHold && (len(s.held) < s.again || !slices.ContainsFunc(s.held[min(had, len(s.held)):], lineEnd)) {
		return nil // nothing that could be decided anew
	}
	var out []byte
	for {
		more := s.release()
		out = append(out, more...)
		if s.skip(); len(more) == 0 || len(s.held) < maxHold {
			break
		}
	}
	s.again = 0
	if len(out) == 0 && len(s.held) > overlap {
		s.again = len(s.held) + len(s.held)/4 // a long secret is not looked through again for every line
	}
	return out
}

// End returns all that is left.
func (s *Sieve) End() []byte {
	s.held, _ = appendClean(s.held, s.rest, true)
	s.skip()
	out := string(s.held)
	s.held, s.rest = nil, nil
	if s.redact != nil {
		out, _ = s.masked(out)
	}
	return []byte(out)
}

func lineEnd(b byte) bool { return b == '\n' || b == '\r' }

// skip drops what goes on with a secret.
func (s *Sieve) skip() {
	if !s.inside {
		return
	}
	n := slices.IndexFunc(s.held, func(b byte) bool { return !keyByte[b] })
	s.inside = n < 0
	if n < 0 {
		n = len(s.held)
	}
	s.held = append(s.held[:0], s.held[n:]...)
}

// keyByte is what encoded keys are made of, white space and escapes in between.
var keyByte = func() (table [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n" {
		table[c] = true
	}
	return table
}()

// release returns what may go out of what is held.
func (s *Sieve) release() []byte {
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
	open, ok := s.masked(held + probe)
	s.inside = ok && !strings.HasSuffix(open, probe)
	s.held = nil
	return []byte(whole)
}

// masked redacts text. What cannot be redacted does not go out.
func (s *Sieve) masked(text string) (out string, ok bool) {
	defer func() {
		if recover() != nil {
			out, ok = unredacted, false
		}
	}()
	return s.redact(text), true
}
