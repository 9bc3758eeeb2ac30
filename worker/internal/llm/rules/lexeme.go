package rules

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The kinds of tokens.
const (
	name    = 'n'
	number  = '0'
	literal = '"' // a string
	mark    = '.' // an operator or a bracket
	newline = '\n'
)

// lexeme is a word of a language. No rule looks for one in strings or comments.
type lexeme struct {
	kind   rune
	text   string   // of a string: what is in it, as it is written
	line   int      // index in code.lines
	holes  []string // of a string: the code of what is filled in
	before []string // of each hole: the text before it
	prefix string   // of a string of Python
}

func (t lexeme) is(texts ...string) bool {
	for _, x := range texts {
		if t.text == x && t.kind != literal {
			return true
		}
	}
	return false
}

// syntax is what the scanner has to know of a language.
type syntax struct {
	comment []string // begin a comment to the end of the line
	block   bool     // has /* */
	quotes  string
	plain   string // quotes of strings without escapes, which may have several lines
	triple  bool   // has strings of Python
	holes   bool   // has templates and regular expressions of JavaScript
	lines   bool   // the end of a line outside of brackets is a token
	fold    bool   // names are in lower case, whatever they are written in
	dollar  bool   // has $tag$ strings of Postgres, which are read as code
}

// long are the operators of several characters, the longest first.
var long = []string{
	"===", "!==", "**=", "<<=", ">>=", "...", ":=", "==", "!=", "<>", "<=", ">=", "=>", "->", "<-", "&&", "||", "++", "--", "+=", "-=", "*=", "/=", "%=", "|=", "&=", "::", "??", "?.", "**", "//",
}

// scan returns the tokens of lines, and which of those have a comment. What begins
// before the lines cannot be known; what ends behind them is cut.
func (s syntax) scan(lines []line) (tokens []lexeme, notes []bool) {
	notes = make([]bool, len(lines))
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
	}
	src := b.String()
	row, depth := 0, 0
	add := func(t lexeme) { t.line = row; tokens = append(tokens, t) }
	for i := 0; i < len(src); {
		rest := src[i:]
		switch c := src[i]; {
		case c == '\n':
			if s.lines && depth == 0 && len(tokens) > 0 && tokens[len(tokens)-1].kind != newline {
				add(lexeme{kind: newline})
			}
			row++
			i++
		case c == ' ' || c == '\t' || c == '\r' || c == '\f':
			i++
		case c == '\\' && s.lines && strings.HasPrefix(rest, "\\\n"):
			row++
			i += 2
		case hasAny(rest, s.comment):
			notes[row] = true
			i += endOf(rest, "\n", 0)
		case s.block && strings.HasPrefix(rest, "/*"):
			n := endOf(rest, "*/", 2)
			for range strings.Count(rest[:n], "\n") + 1 {
				if row < len(notes) {
					notes[row] = true
				}
				row++
			}
			row--
			i += n
		case s.dollar && c == '$' && tag(rest) != "": // the body of a function is code too
			i += len(tag(rest))
		case s.holes && c == '`':
			t, n := template(rest)
			t.line = row
			tokens = append(tokens, t)
			row += strings.Count(rest[:n], "\n")
			i += n
		case s.holes && c == '/' && operand(tokens) && regex(rest) > 0:
			n := regex(rest)
			add(lexeme{kind: literal, text: rest[:n], prefix: "/"})
			i += n
		case strings.IndexByte(s.quotes, c) >= 0 || strings.IndexByte(s.plain, c) >= 0:
			t, n := s.quoted(rest)
			add(t)
			row += strings.Count(rest[:n], "\n")
			i += n
		case c >= '0' && c <= '9':
			n := 1
			for n < len(rest) && (letter(rune(rest[n])) || rest[n] == '.' && !strings.HasPrefix(rest[n:], "..")) {
				n++
			}
			add(lexeme{kind: number, text: rest[:n]})
			i += n
		default:
			r, size := utf8.DecodeRuneInString(rest)
			if !letter(r) || r >= '0' && r <= '9' {
				text := rest[:size]
				for _, op := range long {
					if strings.HasPrefix(rest, op) {
						text = op
						break
					}
				}
				switch text {
				case "(", "[", "{":
					depth++
				case ")", "]", "}":
					depth = max(0, depth-1)
				}
				add(lexeme{kind: mark, text: text})
				i += len(text)
				continue
			}
			n := strings.IndexFunc(rest, func(r rune) bool { return !letter(r) })
			if s.triple && n <= 2 && n < len(rest) && (rest[n] == '"' || rest[n] == '\'') {
				t, m := s.quoted(rest[n:])
				t.prefix = strings.ToLower(rest[:n])
				if strings.Contains(t.prefix, "f") {
					t.before, t.holes = filled(t.text, "{", "}")
				}
				add(t)
				row += strings.Count(rest[n:n+m], "\n")
				i += n + m
				continue
			}
			text := rest[:n]
			if s.fold {
				text = strings.ToLower(text)
			}
			add(lexeme{kind: name, text: text})
			i += n
		}
	}
	return tokens, notes
}

// enter takes away the lines of a hunk up to the end of a comment or text that began
// before it, so that none of that is read as code, nor the code after it as text.
func (s syntax) enter(lines []line) {
	text := source(lines)
	if s.block {
		if end := strings.Index(text, "*/"); end >= 0 && !strings.Contains(text[:end], "/*") {
			empty(lines, text[:end])
			text = source(lines)
		}
	}
	for _, quote := range []string{"`", `"""`, "'''"} {
		if quote == "`" && !s.holes && s.plain != "`" || quote != "`" && !s.triple || strings.Count(text, quote)%2 == 0 {
			continue
		}
		before, _, _ := strings.Cut(text, quote)
		before = strings.TrimRight(before, " \t\n")
		if before == "" || !strings.ContainsRune("=(,{[+:rRbBuUfF$", rune(before[len(before)-1])) && !strings.HasSuffix(before, "return") {
			empty(lines, text[:strings.Index(text, quote)])
		}
	}
}

// empty takes away the lines that text, which they begin with, reaches into.
func empty(lines []line, text string) {
	for i := range min(len(lines), strings.Count(text, "\n")+1) {
		lines[i].text = ""
	}
}

func letter(r rune) bool { return r == '_' || r == '$' || unicode.IsLetter(r) || unicode.IsDigit(r) }

func hasAny(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// endOf returns where s has behind, from on; its length where it has not. What is a
// line's end is left.
func endOf(s, behind string, from int) int {
	i := strings.Index(s[from:], behind)
	switch {
	case i < 0:
		return len(s)
	case behind == "\n":
		return from + i
	}
	return from + i + len(behind)
}

// quoted reads a string that s begins with.
func (s syntax) quoted(text string) (t lexeme, n int) {
	quote := text[:1]
	if s.triple && strings.HasPrefix(text, strings.Repeat(quote, 3)) {
		n := endOf(text, strings.Repeat(quote, 3), 3)
		return lexeme{kind: literal, text: strings.TrimSuffix(text[3:n], strings.Repeat(quote, 3))}, n
	}
	plain := strings.Contains(s.plain, quote)
	for n = 1; n < len(text); n++ {
		switch {
		case text[n] == '\\' && !plain:
			n++
		case text[n] == quote[0]:
			return lexeme{kind: literal, text: text[1:n]}, n + 1
		case text[n] == '\n' && !plain: // not closed, or no string
			return lexeme{kind: literal, text: text[1:n]}, n
		}
	}
	return lexeme{kind: literal, text: text[1:]}, len(text)
}

// template reads a template of JavaScript that s begins with.
func template(s string) (t lexeme, n int) {
	depth := 0
	for n = 1; n < len(s); n++ {
		switch {
		case s[n] == '\\':
			n++
		case depth == 0 && s[n] == '`':
			t = lexeme{kind: literal, text: s[1:n], prefix: "`"}
			t.before, t.holes = filled(t.text, "${", "}")
			return t, n + 1
		case strings.HasPrefix(s[n:], "${"):
			depth++
			n++
		case depth > 0 && s[n] == '{':
			depth++
		case depth > 0 && s[n] == '}':
			depth--
		}
	}
	n = min(len(s), 1+endOf(s, "\n", 1))
	return lexeme{kind: literal, text: s[1:n]}, n
}

// filled returns the holes of a string and the text before each of them.
func filled(s, opening, closing string) (before, holes []string) {
	for {
		text, rest, ok := strings.Cut(s, opening)
		if !ok {
			return before, holes
		}
		if opening == "{" && strings.HasPrefix(rest, "{") { // a brace
			s = rest[1:]
			continue
		}
		depth, end := 1, 0
		for end < len(rest) {
			if rest[end] == '{' {
				depth++
			} else if rest[end] == '}' {
				if depth--; depth == 0 {
					break
				}
			}
			end++
		}
		before, holes = append(before, text), append(holes, rest[:end])
		s = strings.TrimPrefix(rest[end:], closing)
	}
}

// operand reports whether a value, not an operator, may come next, so that a slash begins
// a regular expression.
func operand(tokens []lexeme) bool {
	if len(tokens) == 0 {
		return true
	}
	t := tokens[len(tokens)-1]
	return t.kind == mark && !t.is(")", "]", "}") || t.is("return", "typeof", "case", "in", "of", "await", "yield")
}

// regex returns how long a regular expression is that s begins with, or 0.
func regex(s string) int {
	class := false
	for n := 1; n < len(s); n++ {
		switch {
		case s[n] == '\n':
			return 0
		case s[n] == '\\':
			n++
		case s[n] == '[':
			class = true
		case s[n] == ']':
			class = false
		case s[n] == '/' && !class:
			if n == 1 {
				return 0
			}
			return n + 1
		}
	}
	return 0
}

// tag returns the $tag$ that s begins with, or "".
func tag(s string) string {
	n := strings.IndexByte(s[1:], '$')
	if n < 0 || strings.ContainsFunc(s[1:1+n], func(r rune) bool { return !letter(r) || r == '$' }) || n > 0 && s[1] >= '0' && s[1] <= '9' {
		return ""
	}
	return s[:n+2]
}

// reach is how many tokens a pair of brackets may hold for a rule to look into it. Without
// an end, brackets in brackets would take a time that grows with the square of a hunk.
const reach = 500

// closing returns the index of the bracket that closes the one at i, or -1.
func closing(tokens []lexeme, i int) int {
	depth := 0
	for j := i; j < min(len(tokens), i+reach); j++ {
		switch tokens[j].bracket() {
		case 1:
			depth++
		case -1:
			if depth--; depth == 0 {
				return j
			}
		}
	}
	return -1
}

// bracket returns 1 for a bracket that opens, -1 for one that closes, and else 0.
func (t lexeme) bracket() int {
	if t.kind == mark && len(t.text) == 1 {
		switch t.text[0] {
		case '(', '[', '{':
			return 1
		case ')', ']', '}':
			return -1
		}
	}
	return 0
}

// arguments returns the arguments between the bracket at i and its end, and whether that
// is there.
func arguments(tokens []lexeme, i int) (args [][]lexeme, closed bool) {
	end := closing(tokens, i)
	if end < 0 {
		end = min(len(tokens), i+reach)
	} else {
		closed = true
	}
	depth, from := 0, i+1
	for j := i + 1; j < end; j++ {
		switch b := tokens[j].bracket(); {
		case b != 0:
			depth += b
		case depth == 0 && tokens[j].is(","):
			args = append(args, tokens[from:j])
			from = j + 1
		}
	}
	if from < end {
		args = append(args, tokens[from:end])
	}
	return args, closed
}

// join returns tokens as text, for a look at what they are.
func join(tokens []lexeme) string {
	var b strings.Builder
	for _, t := range tokens {
		if t.kind == literal {
			b.WriteString(`""`)
		} else {
			b.WriteString(t.text)
		}
	}
	return b.String()
}

// dotted returns the names with dots that end at i, as a.b.c, and where they begin.
func dotted(tokens []lexeme, i int) (text string, from int) {
	from = i
	for from >= max(2, i-reach) && tokens[from-1].is(".") && tokens[from-2].kind == name {
		from -= 2
	}
	return join(tokens[from : i+1]), from
}
