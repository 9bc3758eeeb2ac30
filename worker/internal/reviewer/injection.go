package reviewer

import (
	"encoding/base64"
	"html"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"nofx.dev/shared/review"
)

// InjectionRule is the rule of findings about text that is meant for the model that reads it.
const InjectionRule = "prompt_injection"

// form is a form of text that is meant for a model: one of some words, and what comes after
// it. It is matched against folded text.
type form struct {
	weak  bool // programs that speak to models of their own have such text, too
	words []string
	then  *regexp.Regexp
}

func newForm(words, then string) form {
	return form{words: strings.Split(words, "|"), then: regexp.MustCompile(`^` + then)}
}

const (
	orders = `(instructions?|prompts?|rules|guidelines|directions|messages|context|policy|policies)\b`
	change = `\b(pr|pull request|changes?|merge request|diff|review|commit|patch|gate)\b`
	faults = `(issues?|findings?|bugs?|problems?|vulnerabilit(y|ies))\b`
	models = `(ai|llms?|bots?|automated|assistants?|language model|chatgpt|claude|gpt)\b`
)

var injections = []form{
	newForm(`ignore|disregard|forget|override|bypass`, `.{0,40}\b(previous|prior|above|earlier|preceding|all|any|your|system|these|those)\b.{0,30}\b`+orders),
	newForm(`ignore|disregard|forget|override`, `.{0,30}\b`+orders+`.{0,15}\b(above|before|given|so far|you (got|have|were))\b`),
	newForm(`auto-approve|autoapprove|approve|lgtm|rubber-stamp|rubberstamp`, `.{0,15}\b(this|the|my)\b.{0,15}`+change),
	newForm(`accept|pass|merge`, ` (this|my) (pr|pull request|merge request|patch|diff|gate)\b`),
	newForm(`do not|don't|dont|never|stop|no need to|refrain from|must not|avoid`, `.{0,15}\b(report|reporting|flag|flagging|mention|raise|raising|comment on|commenting on)\b.{0,10}\b((any|all) `+faults+`|(anything\b|`+faults+`).{0,10}\b(here|below|in th(is|e) (file|code|change|diff|function|line))\b)`),
	newForm(`respond|reply|answer|return|emit`, `.{0,25}\b(empty|no|zero|without)\b.{0,15}\b(findings?|issues|problems|vulnerabilities)\b`),
	newForm(`respond|reply|answer`, ` with\b.{0,15}\b(empty|no)\b.{0,10}\b(array|list)\b`),
	newForm(`system|developer`, ` ?(prompt|override) ?[:>\]]`),
	newForm(`<|[`, `\|?/?(im start|im end|endoftext)\b|^\[?/?(inst|system)\]`),
	newForm(`reveal|print|repeat|show|output|include|post|send|leak|echo|disclose`, `.{0,30}\b((your|the) system prompt|your (instructions|prompt|secrets?|credentials|system)|the canary)\b`),
	newForm(`<sub>`, ` ?nofx`),
	newForm(`nofx fp1.`, ``),
	newForm(`note|message|instruction|instructions|attention|important|hint`, `.{0,3}\b(to|for) (the |all |any |our )?(ai|llms?|bots|automated reviewers?|assistants)\b`),
	newForm(`dear`, ` .{0,10}\b(ai|llm|reviewer|assistant|model|bot)\b`),
	newForm(`new instructions|updated instructions`, `.{0,10}\b(for|to)\b.{0,10}\b(assistant|model|reviewer|ai|llm|agent)\b`),
	newForm(`you are|you're`, ` (now )?(an?|the) (ai|llm|automated|approving) (code )?(reviewer|approver)\b`),
	newForm(`ai|llm|automated|bot`, ` (code )?(reviewers?|assistants?)\b ?[:,!]`),
	newForm(`mark|treat|consider|rate|classify|label`, `.{0,10}\b(this|the|all|every|any)\b.{0,10}\b(code|file|changes?|diff|pull request|pr|patch|commit|findings?|issues?)\b.{0,10}\b(as|to)\b.{0,10}\b(safe|approved|reviewed|low|info|informational|false positives?|trusted|passed)\b`),
	newForm(`set|change|make|mark|return`, `.{0,40}\bverdict\b.{0,10}(\bto\b|=|:).{0,5}\b(pass(ed)?|approved?|success)\b`),
	newForm(`ignoriere|ignorieren|ignorier`, `.{0,30}\b(anweisung|anweisungen|regeln|vorgaben)\b`),
	newForm(`ignore|ignorez|ignorer`, `.{0,30}\b(instructions|consignes|règles)\b.{0,15}(précédente|ci-dessus)`),
	newForm(`ignora|ignore`, `.{0,30}\b(instrucciones|instruções|istruzioni|reglas)`),
	newForm(`忽略|无视|無視|忘记|忘記`, `.{0,10}(指令|指示|说明|說明|规则|規則)`),
	newForm(`negeer|negeren|vergeet`, `.{0,40}\b(instructies|regels|aanwijzingen|richtlijnen)\b`),
	newForm(`zignoruj|ignoruj|zapomnij`, `.{0,40}\b(instrukcj|polece|zasad|wytyczn)`),
	newForm(folded(`игнорируй|игнорируйте|проигнорируй|проигнорируйте|забудь|забудьте`), `.{0,40}(`+folded(`инструкци|указани|правила|команды`)+`)`),
	newForm(folded(`talimatları|yönergeleri|kuralları`), `.{0,20}(`+folded(`yok say|görmezden gel|dikkate alma|unut`)+`)`),
	newForm(`指示|命令|ルール|規則`, `.{0,15}(無視|忘れ)`),
	newForm(`지시|명령|지침|규칙`, `.{0,15}(무시|잊)`),
	{true, []string{"findings"}, regexp.MustCompile(`^\\?" ?: ?\[ ?\]`)},
	{true, []string{"you are", "you're", "act as", "pretend to be", "from now on", "behave as"}, regexp.MustCompile(`^.{0,30}\b` + models)},
}

// reach is how much text after a word a form looks at, in bytes.
const reach = 200

// in returns where in a folded text the form is.
func (f form) in(text string) (at []int) {
	for _, word := range f.words {
		for from := 0; ; {
			i := strings.Index(text[from:], word)
			if i < 0 {
				break
			}
			i += from
			from = i + len(word)
			if i > 0 && joined(text[i-1], word[0]) || from < len(text) && joined(word[len(word)-1], text[from]) {
				continue // within a longer word
			}
			if f.then.MatchString(text[from:min(len(text), from+reach)]) {
				at = append(at, i)
			}
		}
	}
	return at
}

// joined reports whether two bytes that follow each other are of one word.
func joined(a, b byte) bool { return letter(a) && letter(b) }

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// encoded matches text that may be base64 of other text, or its last line.
var encoded = regexp.MustCompile(`[A-Za-z0-9+/_-]{4,}`)

// What is decoded of one text: pieces, how long one is that others may follow, and how many
// are taken together.
const (
	maxEncoded   = 10_000
	leastEncoded = 16
	maxTogether  = 8
)

// decodes returns where a text has base64 of text that is meant for a model. It may be in
// pieces, as one that is longer than a line is.
func decodes(text string) (at []int) {
	pieces := encoded.FindAllStringIndex(text, maxEncoded)
	for i, first := range pieces {
		if first[1]-first[0] < leastEncoded {
			continue
		}
		var whole strings.Builder
		for _, p := range pieces[i:min(len(pieces), i+maxTogether)] {
			whole.WriteString(text[p[0]:p[1]])
			word := standard.Replace(whole.String())
			if len(word)%4 == 1 { // no end of base64
				word = word[:len(word)-1]
			}
			raw, err := base64.RawStdEncoding.DecodeString(word)
			for cut := 0; err == nil && cut < utf8.UTFMax && len(raw) > 0 && !utf8.Valid(raw); cut++ {
				raw = raw[:len(raw)-1] // half a character at the end
			}
			if err == nil && len(raw) > 0 && utf8.Valid(raw) && isInjected(folded(string(raw))) {
				at = append(at, first[0])
				break
			}
		}
	}
	return at
}

// standard puts base64 for addresses into the usual one.
var standard = strings.NewReplacer("-", "+", "_", "/")

// injected is a line with text that is meant for a model.
type injected struct {
	hunk, line int
	weak       bool
}

// findInjections returns the lines of hunks in which such text begins, each once. raw are the
// same hunks before they were scrubbed.
func findInjections(shown, raw []Hunk) (all []injected) {
	for i, h := range shown {
		weak := map[int]bool{} // by line
		lines, bare := make([]string, len(h.Lines)), make([]string, len(h.Lines))
		for j, l := range h.Lines {
			lines[j] = folded(l.Text)
			bare[j] = wrapping.ReplaceAllString(lines[j], "")
			if deceives(raw[i].Lines[j].Text) {
				weak[j] = false
			}
		}
		for _, j := range h.decodes() {
			weak[j] = false
		}
		forms := [][]string{lines}
		if !slices.Equal(lines, bare) {
			forms = append(forms, bare)
		}
		for _, form := range forms {
			text, begins := joinedLines(form, " ")
			for _, f := range injections {
				for _, at := range f.in(text) {
					j := lineAt(begins, at)
					if was, there := weak[j]; !there || was {
						weak[j] = f.weak
					}
				}
			}
		}
		for j := range h.Lines {
			if w, there := weak[j]; there {
				all = append(all, injected{i, j, w})
			}
		}
	}
	return all
}

// decodes returns the lines at which base64 of text begins that is meant for a model.
func (h Hunk) decodes() (lines []int) {
	texts := make([]string, len(h.Lines))
	for i, l := range h.Lines {
		texts[i] = l.Text
	}
	text, begins := joinedLines(texts, "\n")
	for _, at := range decodes(text) {
		lines = append(lines, lineAt(begins, at))
	}
	return lines
}

// wrapping matches what a line of a text has around it in a program or in markup: quotes,
// signs that join strings, and tags.
var wrapping = regexp.MustCompile("^(?:<[a-z][^<>]*>|[\"'+.,&\\s])+|(?:</[a-z][^<>]*>|[\"'+,&\\\\\\s])+$")

// joinedLines returns lines as one text, and where each begins.
func joinedLines(lines []string, end string) (text string, begins []int) {
	var b strings.Builder
	for _, l := range lines {
		begins = append(begins, b.Len())
		b.WriteString(l + end)
	}
	return b.String(), begins
}

// lineAt returns the line that a place is in.
func lineAt(begins []int, at int) int {
	i, exact := slices.BinarySearch(begins, at)
	if !exact {
		i--
	}
	return i
}

// isInjected reports whether a folded text has a part that is meant for a model, and for none
// of a program's own.
func isInjected(text string) bool {
	return slices.ContainsFunc(injections, func(f form) bool { return !f.weak && len(f.in(text)) > 0 })
}

// isInjection reports whether a text has a part that is meant for a model.
func isInjection(text string) bool {
	return isInjected(folded(strings.ReplaceAll(text, "\n", " "))) || deceives(text) || len(decodes(text)) > 0
}

// escaped matches characters as the source of programs has them.
var escaped = regexp.MustCompile(`\\u[0-9a-fA-F]{4}|\\u\{[0-9a-fA-F]{1,6}\}|\\U[0-9a-fA-F]{8}|\\x[0-9a-fA-F]{2}`)

// unescaped returns a line with the escapes of HTML and of programs undone.
func unescaped(line string) string {
	if strings.Contains(line, "&") {
		line = html.UnescapeString(line)
	}
	if !strings.Contains(line, `\`) {
		return line
	}
	return escaped.ReplaceAllStringFunc(line, func(s string) string {
		n, err := strconv.ParseInt(strings.Trim(s[2:], "{}"), 16, 32)
		if err != nil || !utf8.ValidRune(rune(n)) {
			return s
		}
		return string(rune(n))
	})
}

// folded returns a line as the forms are matched: in the usual letters, lower case, without
// what nobody sees, with the marks of comments as white space.
func folded(line string) string {
	var n int
	line = unescaped(line)
	line = visible(norm.NFKC.String(line), &n)
	line = strings.Map(func(r rune) rune {
		switch r {
		case '*', '#', '`', '_', '~':
			return ' '
		}
		if letter, ok := lookalikes[r]; ok {
			return letter
		}
		return r
	}, strings.ToLower(line))
	return review.Normal(strings.NewReplacer("//", " ", "--", " ", "/ ", " ").Replace(line))
}

// lookalikes are letters of other scripts that look like Latin ones.
var lookalikes = map[rune]rune{
	'а': 'a', 'с': 'c', 'ԁ': 'd', 'е': 'e', 'һ': 'h', 'і': 'i', 'ј': 'j', 'ӏ': 'l', 'о': 'o', 'р': 'p', 'ѕ': 's', 'у': 'y', 'х': 'x', 'ѵ': 'v',
	'α': 'a', 'ε': 'e', 'ι': 'i', 'κ': 'k', 'ν': 'v', 'ο': 'o', 'ρ': 'p', 'τ': 't', 'υ': 'u', 'χ': 'x', 'ı': 'i',
}
