package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"nofx.dev/gateway/api"
)

// timeForm is the form of times in hashes, in UTC.
const timeForm = "2006-01-02T15:04:05.000000Z"

// Hash returns the hash that a row of a tenant's log should have, in hex digits.
func Hash(tenant string, r api.AuditRow) (string, error) {
	prev, err := hex.DecodeString(r.PrevHash)
	if err != nil {
		return "", fmt.Errorf("prev_hash of row %d: %w", r.Seq, err)
	}
	before, err := document(r.Before)
	if err != nil {
		return "", fmt.Errorf("before of row %d: %w", r.Seq, err)
	}
	after, err := document(r.After)
	if err != nil {
		return "", fmt.Errorf("after of row %d: %w", r.Seq, err)
	}
	text := appendJSON(nil, []any{
		tenant, json.Number(strconv.FormatInt(r.Seq, 10)), r.At.UTC().Format(timeForm), r.Actor, r.Via, r.Act, r.Object,
		optional(r.Reason), before, after, optional(r.TraceID),
	})
	sum := sha256.Sum256(slices.Concat(prev, text))
	return hex.EncodeToString(sum[:]), nil
}

func optional(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

// document returns JSON as a value, with numbers as they are written; nil for none.
func document(raw json.RawMessage) (v any, err error) {
	if len(raw) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// appendJSON appends v as Postgres writes a jsonb value. v is what [document] returns, or a
// list of such values.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case json.Number:
		return append(b, v...)
	case string:
		return appendString(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = appendJSON(b, e)
		}
		return append(b, ']')
	case map[string]any:
		names := slices.SortedFunc(maps.Keys(v), func(a, b string) int {
			return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
		})
		b = append(b, '{')
		for i, name := range names {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendString(b, name), ": "...)
			b = appendJSON(b, v[name])
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("audit: %T in JSON", v))
}

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			if c < ' ' {
				b = fmt.Appendf(b, `\u%04x`, c)
			} else {
				b = append(b, c)
			}
		}
	}
	return append(b, '"')
}
