package run

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"nofx.dev/shared/fault"
)

// Strict are the options for JSON from outside: unknown members are refused, and whole
// numbers are read in any spelling, since 60.0 and 6e1 are integers in JSON Schema.
var Strict = json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(
	json.UnmarshalFromFunc(readWhole[int]), json.UnmarshalFromFunc(readWhole[int32]), json.UnmarshalFromFunc(readWhole[int64]),
)))

func readWhole[T int | int32 | int64](d *jsontext.Decoder, v *T) error {
	if d.PeekKind() != jsontext.KindNumber {
		return errors.ErrUnsupported
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	return json.Unmarshal(whole(raw), v)
}

// whole returns a JSON number without fraction and exponent if it is a whole number, and
// otherwise unchanged. Very long numbers are not changed.
func whole(raw jsontext.Value) jsontext.Value {
	s := string(raw)
	if len(s) > 100 || !strings.ContainsAny(s, ".eE") {
		return raw
	}
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil:
		return raw
	case f == 0: // so that the exponent, which may be huge, counts for nothing below
		mantissa, _, _ := strings.Cut(strings.ToLower(s), "e")
		if strings.Trim(mantissa, "-0.") != "" {
			return raw
		}
		return jsontext.Value("0")
	case math.Abs(f) >= 1<<63: // out of range, which the decoder reports
		return jsontext.Value(strconv.FormatFloat(f, 'f', -1, 64))
	}
	exact, ok := new(big.Rat).SetString(s)
	if !ok || !exact.IsInt() {
		return raw
	}
	return jsontext.Value(exact.Num().String())
}

// Fit decodes a JSON document into v, a pointer, and returns the parts that do not fit:
// members that v does not have, values of another kind, and empty texts for members that
// have a default. Each comes with a text that says what is expected; there are at most a
// hundred. v gets the rest, so that the caller can look for other errors. For a document
// that is not JSON, or that gives a member twice, Fit returns only that error.
func Fit(raw []byte, v any) []fault.Field {
	misfits, _ := fit(raw, v, "field")
	return misfits
}

// fit does the work of [Fit]. noun names the members in messages. read reports whether v
// got any value.
func fit(raw []byte, v any, noun string) (misfits []fault.Field, read bool) {
	err := json.Unmarshal(raw, v, Strict)
	to := reflect.ValueOf(v).Elem()
	f := fitting{noun: noun}
	if err == nil {
		if bytes.Contains(raw, []byte(`""`)) {
			f.value("", raw, to.Type())
		}
		return f.misfits, true
	}
	to.SetZero() // of what was read before
	var syntax *jsontext.SyntacticError
	if errors.As(err, &syntax) {
		detail := "is not valid JSON in UTF-8"
		switch {
		case errors.Is(err, jsontext.ErrDuplicateName):
			detail = "is given twice"
		case halfPair(raw):
			detail = "contains half a surrogate pair"
		case !utf8.Valid(raw):
			detail = "is not valid UTF-8"
		}
		return []fault.Field{{Pointer: string(syntax.JSONPointer), Detail: detail}}, false
	}
	if rest := f.value("", raw, to.Type()); json.Unmarshal(rest, v, Strict) == nil && len(f.misfits) > 0 {
		return f.misfits, true
	}
	to.SetZero()
	return []fault.Field{{Detail: "cannot be read"}}, false
}

// halfPair reports whether half a surrogate pair is the only reason why a document is not
// JSON.
func halfPair(raw jsontext.Value) bool {
	return utf8.Valid(raw) && raw.IsValid(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)) && !raw.IsValid(jsontext.AllowDuplicateNames(true))
}

// misfitsMost is the maximum number of misfits: people do not read more, and each
// description costs time.
const misfitsMost = 100

// fitting collects misfits.
type fitting struct {
	noun    string
	misfits []fault.Field
}

func (f *fitting) full() bool { return len(f.misfits) >= misfitsMost }

func (f *fitting) add(at jsontext.Pointer, detail string) {
	if !f.full() {
		f.misfits = append(f.misfits, fault.Field{Pointer: string(at), Detail: detail})
	}
}

// value returns the part of a valid JSON value that fits a type, or null.
func (f *fitting) value(at jsontext.Pointer, raw jsontext.Value, t reflect.Type) jsontext.Value {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	kind := raw.Kind()
	switch {
	case kind == 'n':
		return raw
	case t == reflect.TypeFor[Network]() && kind == '{':
		return f.object(at, raw, reflect.TypeFor[networkHosts]())
	case ownDecoder(t):
	case t.Kind() == reflect.Struct && kind == '{', t.Kind() == reflect.Map && kind == '{':
		return f.object(at, raw, t)
	case t.Kind() == reflect.Slice && kind == '[':
		return f.list(at, raw, t)
	}
	err := json.Unmarshal(raw, reflect.New(t).Interface(), Strict)
	switch {
	case err == nil:
		return raw
	case errors.Is(err, strconv.ErrRange):
		f.add(at, "is out of range")
	default:
		f.add(at, fmt.Sprintf("is %s; it must be %s", kindName(kind), expected(t, raw)))
	}
	return jsontext.Value("null")
}

// ownDecoder reports whether a type has its own decoder, or takes any JSON.
func ownDecoder(t reflect.Type) bool {
	_, v1 := reflect.New(t).Interface().(json.Unmarshaler)
	_, v2 := reflect.New(t).Interface().(json.UnmarshalerFrom)
	return v1 || v2
}

func (f *fitting) object(at jsontext.Pointer, raw jsontext.Value, t reflect.Type) jsontext.Value {
	var out bytes.Buffer
	in, enc := jsontext.NewDecoder(bytes.NewReader(raw)), jsontext.NewEncoder(&out)
	_, _ = in.ReadToken() // raw is valid, and what is written follows it
	_ = enc.WriteToken(jsontext.BeginObject)
	for in.PeekKind() != '}' {
		token, err := in.ReadToken()
		if err != nil {
			return jsontext.Value("null")
		}
		name := token.String()
		value, err := in.ReadValue()
		if err != nil {
			return jsontext.Value("null")
		}
		place, member := at.AppendToken(name), t
		if t.Kind() == reflect.Map {
			member = t.Elem()
		} else if field, ok := memberOf(t, name); ok {
			member = field.Type
			if string(value) == `""` && member.Kind() == reflect.String && strings.HasSuffix(field.Tag.Get("json"), ",omitempty") {
				f.add(place, "is empty; give it a value, or leave it out for its default")
				continue
			}
		} else {
			if !f.full() {
				f.add(place, "unknown "+f.noun+f.unknown(t, name))
			}
			continue
		}
		_ = enc.WriteToken(jsontext.String(name))
		_ = enc.WriteValue(f.value(place, slices.Clone(value), member))
	}
	_ = enc.WriteToken(jsontext.EndObject)
	return out.Bytes()
}

func (f *fitting) list(at jsontext.Pointer, raw jsontext.Value, t reflect.Type) jsontext.Value {
	var items []jsontext.Value
	if err := json.Unmarshal(raw, &items); err != nil {
		return jsontext.Value("null")
	}
	for i := range items {
		items[i] = f.value(at.AppendToken(strconv.Itoa(i)), items[i], t.Elem())
	}
	out, err := json.Marshal(items)
	if err != nil {
		return jsontext.Value("null")
	}
	return out
}

// unknown returns a hint about a member that a struct does not have: the place where it
// belongs, or the members that there are.
func (f *fitting) unknown(t reflect.Type, name string) string {
	if _, ok := memberOf(reflect.TypeFor[PlanStep](), name); ok && f.noun == "input" {
		return `; it belongs in the step, next to "inputs"`
	}
	if t == reflect.TypeFor[PlanStep]() && slices.ContainsFunc(toolInputs, func(of reflect.Type) bool {
		_, ok := memberOf(of, name)
		return ok
	}) {
		return `; it belongs inside "inputs"`
	}
	names := members(t)
	for _, parent := range names {
		child, _ := memberOf(t, parent)
		if _, ok := memberOf(child.Type, name); ok {
			return fmt.Sprintf("; it belongs inside %q", parent)
		}
	}
	return suggestion(name, names, "there are: ")
}

// toolInputs are the inputs of all tools.
var toolInputs = []reflect.Type{
	reflect.TypeFor[BashInputs](), reflect.TypeFor[WriteInputs](), reflect.TypeFor[CheckoutInputs](), reflect.TypeFor[HTTPInputs](), reflect.TypeFor[SleepInputs](),
	reflect.TypeFor[SignalInputs](), reflect.TypeFor[CodegenInputs](), reflect.TypeFor[GateInputs](), reflect.TypeFor[ManualInputs](),
}

// members returns the names of a struct's members, in order.
func members(t reflect.Type) (names []string) {
	for _, field := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// memberOf returns the field of a struct that holds the JSON member of that name.
func memberOf(t reflect.Type, name string) (field reflect.StructField, ok bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || ownDecoder(t) {
		return field, false
	}
	for _, field := range reflect.VisibleFields(t) {
		if known, _, _ := strings.Cut(field.Tag.Get("json"), ","); known == name && name != "-" {
			return field, true
		}
	}
	return field, false
}

// examples are objects as they are mostly written.
var examples = map[reflect.Type]string{
	reflect.TypeFor[PlanStep]():          `{"name": "build", "tool": "bash", "inputs": {"script": "make"}}`,
	reflect.TypeFor[PlanRetry]():         `{"max_attempts": 3}`,
	reflect.TypeFor[Policy]():            `{"tools_allowed": ["bash"]}`,
	reflect.TypeFor[Network]():           `{"hosts": ["proxy.example.com:443"]}`,
	reflect.TypeFor[Workspace]():         `{"source": "git", "git": {"url": "https://git.example.com/team/app.git"}}`,
	reflect.TypeFor[WorkspaceGit]():      `{"url": "https://git.example.com/team/app.git", "ref": "main"}`,
	reflect.TypeFor[WriteFile]():         `{"path": "a.txt", "content": "hello"}`,
	reflect.TypeFor[GateReport]():        `{"format": "junit", "path": "report.xml"}`,
	reflect.TypeFor[BashInputs]():        `{"script": "make"}`,
	reflect.TypeFor[WriteInputs]():       `{"files": [{"path": "a.txt", "content": "hello"}]}`,
	reflect.TypeFor[CheckoutInputs]():    `{"url": "https://git.example.com/team/app.git"}`,
	reflect.TypeFor[HTTPInputs]():        `{"url": "https://api.example.com/"}`,
	reflect.TypeFor[SleepInputs]():       `{"duration_s": 30}`,
	reflect.TypeFor[SignalInputs]():      `{"key": "deploy/42"}`,
	reflect.TypeFor[CodegenInputs]():     `{"instruction": "Fix the typo in README.md"}`,
	reflect.TypeFor[GateInputs]():        `{"command": "go test ./..."}`,
	reflect.TypeFor[ManualInputs]():      `{"message": "Deploy?"}`,
	reflect.TypeFor[map[string]string](): `{"NAME": "value"}`,
}

// expected describes a type for a client that sent a value of another type, if possible
// with the client's own value in the right form.
func expected(t reflect.Type, raw jsontext.Value) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	as := func(noun string, example []byte) string {
		if len(example) > 0 && len(example) <= 40 && json.Unmarshal(example, reflect.New(t).Interface()) == nil {
			return noun + ", for example " + string(example)
		}
		return noun
	}
	scalar := raw.Kind() != '{' && raw.Kind() != '['
	inner := []byte(nil)
	if raw.Kind() == '"' {
		inner = raw[1 : len(raw)-1]
	}
	example := examples[t]
	if t == reflect.TypeFor[time.Time]() {
		return `a time, for example "2026-01-31T12:00:00Z"`
	}
	switch t.Kind() {
	case reflect.String:
		if t == reflect.TypeFor[FileMode]() {
			return `a string, for example "` + modeLike(string(raw)) + `"`
		}
		if scalar {
			return as("a string", slices.Concat([]byte(`"`), raw, []byte(`"`)))
		}
		return "a string"
	case reflect.Bool:
		return as("true or false", inner)
	case reflect.Int, reflect.Int32, reflect.Int64:
		return as("a whole number", inner)
	case reflect.Float64, reflect.Float32:
		return as("a number", inner)
	case reflect.Slice:
		noun := "a list of " + map[reflect.Kind]string{reflect.String: "strings", reflect.Int: "whole numbers", reflect.Int64: "whole numbers", reflect.Struct: "objects"}[t.Elem().Kind()]
		if own := examples[t.Elem()]; own != "" {
			return noun + ", for example [" + own + "]"
		}
		if scalar {
			return as(noun, slices.Concat([]byte("["), raw, []byte("]")))
		}
		return noun
	case reflect.Map:
		if example != "" {
			return "an object of strings, for example " + example
		}
		return "an object"
	case reflect.Struct:
		if example != "" {
			return "an object, for example " + example
		}
		if names := members(t); len(names) > 0 && !ownDecoder(t) {
			return "an object with " + strings.Join(names, ", ")
		}
	}
	return "something else"
}

// modeLike returns the mode that is meant by a number: its digits, or its value.
func modeLike(number string) string {
	if n, err := strconv.ParseInt(number, 10, 32); err == nil && (n == 755 || n == 0o755) {
		return "755"
	}
	return "644"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case 't', 'f':
		return "true or false"
	}
	return "null"
}

// suggestion returns a hint for an unknown name: the nearest known name, or all known names
// after an introduction.
func suggestion(name string, known []string, all string) string {
	if len(known) == 0 {
		return ""
	}
	near := nearest(name, known)
	if near == "" {
		if all == "" {
			return ""
		}
		return "; " + all + strings.Join(known, ", ")
	}
	s := fmt.Sprintf("; did you mean %q?", near)
	if all != "" {
		s += " " + strings.ToUpper(all[:1]) + all[1:] + strings.Join(known, ", ")
	}
	return s
}

// nearest returns the name most like another one, or "" when none is like it.
func nearest(name string, known []string) string {
	best, least := "", max(1, len(name)/3)+1
	if len(name) > 128 {
		return ""
	}
	for _, k := range known {
		if n := len(name) - len(k); (n >= least || -n >= least) && !strings.Contains(k, strings.ToLower(name)) {
			continue
		}
		d := distance(strings.ToLower(name), k)
		if len(name) > 2 && strings.Contains(k, strings.ToLower(name)) {
			d = 1
		}
		if d < least && d < len(name) {
			best, least = k, d
		}
	}
	return best
}

// distance returns the number of letters to insert, delete, change or swap with their
// neighbours that turn a into b.
func distance(a, b string) int {
	s, t := []rune(a), []rune(b)
	rows := make([][]int, len(s)+1)
	for i := range rows {
		rows[i] = make([]int, len(t)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
			case s[i-1] == t[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j-1], rows[i-1][j], rows[i][j-1])
				if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
					rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
				}
			}
		}
	}
	return rows[len(s)][len(t)]
}
