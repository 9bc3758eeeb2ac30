package httpapi

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// canonicalJSON returns a document in the form that all its spellings share: that of
// RFC 8785, except for numbers. The RFC makes floats of them, which would make large
// integers equal to their neighbours.
func canonicalJSON(doc []byte) ([]byte, error) {
	v := jsontext.Value(slices.Clone(doc))
	if err := v.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false)); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	dec, enc := jsontext.NewDecoder(bytes.NewReader(v)), jsontext.NewEncoder(&out)
	for {
		token, err := dec.ReadToken()
		switch {
		case errors.Is(err, io.EOF):
			return out.Bytes(), nil
		case err != nil:
			return nil, err
		case token.Kind() == jsontext.KindNumber:
			err = enc.WriteValue(jsontext.Value(canonicalNumber(token.String())))
		default:
			err = enc.WriteToken(token)
		}
		if err != nil {
			return nil, err
		}
	}
}

// canonicalNumber returns a JSON number as an integer that does not end in zero, times a
// power of ten.
func canonicalNumber(s string) string {
	s, minus := strings.CutPrefix(strings.ToLower(s), "-")
	mantissa, power, _ := strings.Cut(s, "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	if digits == "" {
		return "0"
	}
	short := strings.TrimRight(digits, "0")
	exponent, _ := new(big.Int).SetString(cmp.Or(strings.TrimPrefix(power, "+"), "0"), 10)
	exponent.Add(exponent, big.NewInt(int64(len(digits)-len(short)-len(fraction))))
	if minus {
		short = "-" + short
	}
	return short + "e" + exponent.String()
}
