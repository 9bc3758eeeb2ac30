package sieve

import (
	"bytes"
	"unicode/utf8"
)

// Clean makes text that Postgres and JSON accept out of any bytes: NUL and what
// is no UTF-8 become U+FFFD.
func Clean(s string) string {
	clean, _ := appendClean(nil, []byte(s), true)
	return string(clean)
}

// appendClean appends p to dst, cleaned. A sequence that p breaks off is left to
// the caller as rest, unless p is the end.
func appendClean(dst, p []byte, end bool) (clean, rest []byte) {
	if !end {
		p, rest = cutBroken(p)
	}
	if utf8.Valid(p) && bytes.IndexByte(p, 0) < 0 {
		return append(dst, p...), rest
	}
	for len(p) > 0 {
		r, size := utf8.DecodeRune(p)
		if r == 0 {
			r = utf8.RuneError
		}
		dst = utf8.AppendRune(dst, r)
		p = p[size:]
	}
	return dst, rest
}

// cutBroken splits a sequence that more bytes could complete off the end of p.
func cutBroken(p []byte) (whole, broken []byte) {
	for n := len(p) - 1; n >= 0 && n > len(p)-utf8.UTFMax; n-- {
		if utf8.RuneStart(p[n]) {
			if !utf8.FullRune(p[n:]) {
				return p[:n], p[n:]
			}
			break
		}
	}
	return p, nil
}
