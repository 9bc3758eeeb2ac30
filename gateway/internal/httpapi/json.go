package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/labstack/echo/v4"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// Limits of a JSON document (SECURITY.md §6).
const (
	maxDepth    = 32
	maxElements = 10_000
	maxNumber   = 64  // bytes
	maxExponent = 400 // beyond any float
)

// readJSON reads the body of c into v and returns its bytes. What cannot be read
// (syntax, an unknown or repeated member, a wrong type) is 400, what Postgres
// would refuse for ever (NUL, half a surrogate pair, an endless number) 422, each
// with the pointer to it. Numbers may be of any size within the members that free
// points to.
func readJSON[T any](c echo.Context, free ...jsontext.Pointer) (v T, body []byte, err error) {
	if body, err = readBody(c); err != nil {
		return v, nil, err
	}
	err = decode(body, &v, free...)
	return v, body, err
}

// readOptionalJSON reads a body as readJSON does, or returns the zero value when the body
// has no bytes, whatever the headers say.
func readOptionalJSON[T any](c echo.Context) (v T, err error) {
	r := c.Request()
	ahead := bufio.NewReader(r.Body)
	if _, err := ahead.Peek(1); errors.Is(err, io.EOF) {
		return v, nil
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{ahead, r.Body}
	v, _, err = readJSON[T](c)
	return v, err
}

func readBody(c echo.Context) ([]byte, error) {
	r := c.Request()
	if r.Header.Get("Content-Encoding") != "" {
		return nil, fault.New(fault.Invalid, "unsupported-media-type", "a compressed body is not accepted")
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != echo.MIMEApplicationJSON {
		return nil, fault.New(fault.Invalid, "unsupported-media-type", "the body's Content-Type must be application/json")
	}
	tooLong := fault.New(fault.Invalid, "too-large", "the body is longer than %d bytes", maxBody)
	if r.ContentLength > maxBody {
		c.Response().Header().Set("Connection", "close") // rather than to read what is on its way
		return nil, tooLong
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Response(), r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLong
	}
	if err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
		return nil, fault.New(fault.Invalid, "malformed-json", "the body could not be read to its end").Because(err)
	}
	return bytes.TrimPrefix(body, []byte("\ufeff")), nil // a byte order mark, as some editors write
}

// unfit is the error of a body with members of a wrong type; the rest of it was read.
type unfit struct{ error }

func (u unfit) Unwrap() error { return u.error }

// decode reads one document strictly. Where something does not fit, the error is an
// unfit that names all of it, and v has the rest.
func decode(body []byte, v any, free ...jsontext.Pointer) error {
	if err := scan(body, free); err != nil {
		return err
	}
	err := json.Unmarshal(body, v, run.Strict)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*json.SemanticError](err); !ok {
		return malformed("", "it is not valid JSON")
	}
	code := "malformed-json"
	switch {
	case errors.Is(err, json.ErrUnknownName):
		code = "unknown-field"
	case errors.Is(err, strconv.ErrRange):
		code = "invalid-field"
	}
	misfits := run.Fit(body, v)
	if misfits[0].Pointer == "" {
		return malformed("", "it "+misfits[0].Detail)
	}
	return unfit{fault.OfFields(code, misfits...)}
}

func malformed(at, detail string) error {
	e := fieldFault("malformed-json", at, detail)
	if at == "" {
		e.Fields, e.Detail = nil, "the body cannot be read: "+detail
	}
	return e
}

// fieldFault returns the error of one fault of a body.
func fieldFault(code, at, detail string) *fault.Error {
	return fault.OfFields(code, fault.Field{Pointer: at, Detail: detail})
}

// scan reads the document value by value, keeping nothing, for what no decoder
// into Go types would say: depth, lengths, texts and numbers also where the contract
// allows any object.
func scan(body []byte, free []jsontext.Pointer) error {
	// Half a surrogate pair is let through here, so that it can be named below.
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowInvalidUTF8(true))
	for {
		var err error
		switch kind := d.PeekKind(); kind {
		case jsontext.KindString, jsontext.KindNumber:
			var raw jsontext.Value
			if raw, err = d.ReadValue(); err == nil {
				err = scanScalar(d, kind, raw, free)
			}
		default:
			_, err = d.ReadToken()
		}
		switch {
		case errors.Is(err, io.EOF) && d.StackDepth() == 0 && d.InputOffset() > 0 && begun(d):
			return nil
		case err != nil:
			return scanFault(d, err)
		case d.StackDepth() > maxDepth:
			return fieldFault("too-deep", string(d.StackPointer()), fmt.Sprintf("more than %d levels deep", maxDepth))
		}
		if kind, n := d.StackIndex(d.StackDepth()); kind == jsontext.KindBeginArray && n > maxElements {
			return malformed(string(d.StackPointer().Parent()), fmt.Sprintf("has more than %d items", maxElements))
		}
		if _, n := d.StackIndex(0); d.StackDepth() == 0 && n > 1 {
			return malformed("", "there is more after its end")
		}
	}
}

// begun reports whether there was a value at all.
func begun(d *jsontext.Decoder) bool {
	_, n := d.StackIndex(0)
	return n > 0
}

func scanFault(d *jsontext.Decoder, err error) error {
	if _, ours := errors.AsType[*fault.Error](err); ours {
		return err
	}
	if errors.Is(err, jsontext.ErrDuplicateName) {
		at := string(d.StackPointer())
		if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			at = string(syntax.JSONPointer)
		}
		return fieldFault("duplicate-key", at, "is given twice")
	}
	if d.StackDepth() == 0 && begun(d) && !errors.Is(err, io.EOF) {
		return malformed("", "there is more after its end")
	}
	return malformed("", fmt.Sprintf("it is not valid JSON, at byte %d", d.InputOffset()))
}

func scanScalar(d *jsontext.Decoder, kind jsontext.Kind, raw []byte, free []jsontext.Pointer) error {
	detail := ""
	if kind == jsontext.KindString {
		detail = badString(raw)
	} else {
		detail = badNumber(raw)
	}
	if detail == "" {
		return nil
	}
	at := d.StackPointer()
	if kind == jsontext.KindNumber && slices.ContainsFunc(free, func(p jsontext.Pointer) bool { return p.Contains(at) }) {
		return nil
	}
	return fieldFault("invalid-field", string(at), detail)
}

// badString returns why Postgres would refuse a JSON string, or "".
func badString(raw []byte) string {
	if !utf8.Valid(raw) {
		return "is not valid UTF-8"
	}
	for i := bytes.IndexByte(raw, '\\'); i >= 0 && i+1 < len(raw); {
		if raw[i+1] == 'u' {
			r := hex4(raw[i+2:])
			switch {
			case r == 0:
				return "contains a NUL character"
			case utf16.IsSurrogate(r):
				next := raw[i+6:]
				if len(next) < 6 || next[0] != '\\' || next[1] != 'u' || utf16.DecodeRune(r, hex4(next[2:])) == utf8.RuneError {
					return "contains half a surrogate pair"
				}
				i += 6
			}
			i += 4
		}
		i += 2
		next := bytes.IndexByte(raw[i:], '\\')
		if next < 0 {
			break
		}
		i += next
	}
	return ""
}

// hex4 returns the value of four hex digits that the decoder has checked.
func hex4(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n)
}

// badNumber returns why a JSON number is refused, or "". Integers have 64 bits, floats are
// finite, and the text of a number is limited.
func badNumber(raw []byte) string {
	s := string(raw)
	mantissa, exponent := s, 0
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		mantissa = s[:i]
		n, err := strconv.Atoi(s[i+1:])
		if err != nil {
			return "is out of range"
		}
		exponent = n
	}
	if len(mantissa) > maxNumber || exponent > maxExponent || exponent < -maxExponent {
		return "is out of range"
	}
	if !bytes.ContainsAny(raw, ".eE") {
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			return "is out of range"
		}
		return ""
	}
	if _, err := strconv.ParseFloat(s, 64); err != nil {
		return "is out of range"
	}
	return ""
}

// plainLen returns the length of a strictly read document with its numbers written out
// without exponents, as the database does.
func plainLen(doc []byte) int {
	n := len(doc)
	for d := jsontext.NewDecoder(bytes.NewReader(doc)); ; {
		switch token, err := d.ReadToken(); {
		case err != nil:
			return n
		case token.Kind() == jsontext.KindNumber:
			mantissa, exponent, found := strings.Cut(strings.ToLower(token.String()), "e")
			if !found {
				continue
			}
			digits, err := strconv.Atoi(exponent)
			if err != nil {
				return math.MaxInt
			}
			if digits = max(digits, -digits); digits > len(mantissa) {
				n += min(digits, math.MaxInt-n)
			}
		}
	}
}
