package rules

import (
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

// script is TypeScript and JavaScript.
var script = language{
	syntax: syntax{comment: []string{"//"}, block: true, quotes: `"'`, holes: true},
	rules: []rule{
		{"js/eval", "A variable is evaluated as code",
			"A user who controls the text can run any code in this process. Parse data with JSON.parse, and look functions up by name.",
			review.Security, review.High, 0.8, jsEval},
		{"js/inner-html", "A variable is inserted as HTML",
			"Markup in the value can run scripts in the user's browser. Use textContent, or escape or sanitise the value first.",
			review.Security, review.High, 0.7, jsInnerHTML},
		{"js/shell-injection", "A shell command is built from a variable",
			"A user who controls the value can run other commands. Use execFile or spawn with a list of arguments, without a shell.",
			review.Security, review.High, 0.85, jsShell},
		{"js/sql-injection", "An SQL statement is built by inserting a value",
			"A user who controls the value can change the statement. Use a placeholder and pass the value as a parameter.",
			review.Security, review.High, 0.85, jsSQL},
		{"js/async-for-each", "forEach does not wait for an async function",
			"The code after the loop does not wait for the calls, and a failure becomes an unhandled rejection. Use for … of with await, or Promise.all with map.",
			review.Concurrency, review.Medium, 0.85, jsForEach},
		{"js/async-executor", "The executor of a promise is async",
			"When it throws, the promise never settles and the error is lost. Move the await out of the executor.",
			review.ErrorHandling, review.Medium, 0.85, jsExecutor},
		{"js/floating-promise", "This promise is not awaited",
			"The code after it runs before it is done, and a failure becomes an unhandled rejection. Await it, return it, or add a catch.",
			review.Concurrency, review.Medium, 0.8, jsFloating},
		{"js/empty-catch", "The error is ignored",
			"A failure in this block leaves no trace. Handle the error, or say in a comment why it does not matter.",
			review.ErrorHandling, review.Low, 0.6, jsCatch},
		{"js/buffer-constructor", "new Buffer is deprecated and unsafe",
			"With a number as argument it may return uninitialised memory. Use Buffer.from or Buffer.alloc.",
			review.Security, review.Medium, 0.9, jsBuffer},
		{"js/tls-unverified", "Certificates are not verified",
			"An attacker on the network can impersonate the server and read the requests. Pass the server's CA in the option ca instead.",
			review.Security, review.High, 0.85, jsTLS},
		{"js/weak-random", "Math.random is used for a secret",
			"Its numbers are predictable. Use crypto.randomBytes, crypto.randomUUID or crypto.getRandomValues.",
			review.Security, review.High, 0.8, jsRandom},
		{"js/nan-compare", "A comparison with NaN is never true",
			"NaN is not equal to any value, including itself. Use Number.isNaN.",
			review.Correctness, review.Medium, 0.95, jsNaN},
		{"js/assigned-condition", "The condition assigns instead of comparing",
			"A single = changes the variable and uses the new value as the condition. Use ===.",
			review.Correctness, review.High, 0.8, jsAssigned},
		{"js/typeof-text", "typeof never returns this text",
			"The comparison is never true. typeof returns undefined, object, boolean, number, string, symbol, function or bigint.",
			review.Correctness, review.High, 0.95, jsTypeof},
	},
}

// fixed reports whether tokens are literals without holes and constants alone.
func fixedText(tokens []lexeme) bool {
	for _, t := range tokens {
		switch t.kind {
		case literal:
			if slices.ContainsFunc(t.holes, func(h string) bool { return !safe(h) }) {
				return false
			}
		case name:
			if strings.ToUpper(t.text) != t.text && !t.is("null", "undefined", "true", "false", "None") {
				return false
			}
		}
	}
	return true
}

// safe reports whether an expression is a constant, a number, or made safe by a function
// whose name says so.
func safe(expr string) bool {
	lower := strings.ToLower(expr)
	for _, w := range []string{"escape", "quote", "encode", "sanit", "parseint", "number(", ".length", "int(", "purify", "len("} {
		if strings.Contains(lower, w) {
			return true
		}
	}
	return strings.ToUpper(expr) == expr && strings.ContainsFunc(expr, letter)
}

func jsEval(c *code) (found []hit) {
	for i, t := range c.tokens {
		if i+1 >= len(c.tokens) || !c.tokens[i+1].is("(") || c.test {
			continue
		}
		before := lexeme{}
		if i > 0 {
			before = c.tokens[i-1]
		}
		args, _ := arguments(c.tokens, i+1)
		if len(args) == 0 || fixedText(args[len(args)-1]) {
			continue
		}
		if t.is("eval") && (!before.is(".", "function") || i > 1 && c.tokens[i-2].is("window", "global", "globalThis")) || t.is("Function") && before.is("new") {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsInnerHTML(c *code) (found []hit) {
	for i, t := range c.tokens {
		if c.test || i == 0 || i+2 >= len(c.tokens) || !c.tokens[i-1].is(".") {
			continue
		}
		var value []lexeme
		switch {
		case t.is("innerHTML", "outerHTML") && c.tokens[i+1].is("=", "+="):
			value = expression(c.tokens[i+2:])
		case t.is("insertAdjacentHTML") && c.tokens[i+1].is("("):
			if args, _ := arguments(c.tokens, i+1); len(args) == 2 {
				value = args[1]
			}
		case t.is("write", "writeln") && c.tokens[i-2].is("document") && c.tokens[i+1].is("("):
			if args, _ := arguments(c.tokens, i+1); len(args) == 1 {
				value = args[0]
			}
		}
		if len(value) > 0 && !fixedText(value) && !safe(join(value)) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

// expression returns the tokens up to the end of the expression, or of the line where
// that does not go on.
func expression(tokens []lexeme) []lexeme {
	tokens = tokens[:min(len(tokens), reach)]
	depth := 0
	for i, t := range tokens {
		if depth += t.bracket(); depth < 0 {
			return tokens[:i]
		}
		switch {
		case t.bracket() != 0:
		case depth == 0 && t.is(";", ","), t.kind == newline:
			return tokens[:i]
		case depth == 0 && i > 0 && t.line > tokens[i-1].line && t.kind != mark && tokens[i-1].kind != mark:
			return tokens[:i]
		}
	}
	return tokens
}

func jsShell(c *code) (found []hit) {
	for i, t := range c.tokens {
		if c.test || !t.is("exec", "execSync") || i+1 >= len(c.tokens) || !c.tokens[i+1].is("(") {
			continue
		}
		if call, from := dotted(c.tokens, i); call != t.text {
			if of := strings.ToLower(c.tokens[from].text); t.is("exec") && !strings.Contains(of, "child") && !slices.Contains([]string{"cp", "shell", "shelljs", "util"}, of) {
				continue
			}
		} else if i > 0 && c.tokens[i-1].is(".", "function", "async") {
			continue
		}
		args, _ := arguments(c.tokens, i+1)
		if len(args) == 0 || safe(join(args[0])) {
			continue
		}
		for k, a := range args[0] {
			if a.kind == literal && slices.ContainsFunc(a.holes, func(h string) bool { return !safe(h) }) ||
				a.is("+") && k+1 < len(args[0]) && k > 0 && !fixedText(args[0]) && (args[0][k-1].kind == literal || args[0][k+1].kind == literal) {
				found = append(found, hit{line: t.line})
				break
			}
		}
	}
	return found
}

func jsSQL(c *code) (found []hit) {
	for i, t := range c.tokens {
		if c.test || t.kind != literal || t.prefix == "/" {
			continue
		}
		if i > 0 && t.prefix == "`" && c.tokens[i-1].kind == name && !c.tokens[i-1].is("return", "await", "case") { // a tag, which sets parameters
			continue
		}
		if injected(t) || isSQL(t.text) && len(t.holes) == 0 && isValue(t.text) && i+2 < len(c.tokens) && c.tokens[i+1].is("+") && !fixedText(c.tokens[i+2:i+3]) && !escapes(c.tokens[i+2:]) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

// injected reports whether a text with holes is a statement with values in them.
func injected(t lexeme) bool {
	if !isSQL(t.text) {
		return false
	}
	for i, h := range t.holes {
		if isValue(t.before[i]) && !safe(h) {
			return true
		}
	}
	return false
}

// escapes reports whether an expression begins with the call of a function that makes a
// value safe.
func escapes(tokens []lexeme) bool {
	for i, t := range tokens {
		if t.is("(") {
			return safe(join(tokens[:i+1]))
		}
		if t.kind != name && !t.is(".") {
			return false
		}
	}
	return false
}

func jsForEach(c *code) (found []hit) {
	for i, t := range c.tokens {
		if t.is("forEach") && i > 0 && i+2 < len(c.tokens) && c.tokens[i-1].is(".", "?.") && c.tokens[i+1].is("(") && c.tokens[i+2].is("async") {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsExecutor(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("Promise") || i == 0 || !c.tokens[i-1].is("new") {
			continue
		}
		j := i + 1
		if j < len(c.tokens) && c.tokens[j].is("<") {
			for j < min(len(c.tokens), i+reach) && !c.tokens[j].is("(") {
				j++
			}
		}
		if j+1 < len(c.tokens) && c.tokens[j].is("(") && c.tokens[j+1].is("async") {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsFloating(c *code) (found []hit) {
	for i, t := range c.tokens {
		if t.kind != name || i+1 >= len(c.tokens) || !c.tokens[i+1].is("(") {
			continue
		}
		call, from := dotted(c.tokens, i)
		if call != "fetch" && !strings.HasPrefix(call, "fs.promises.") && !strings.HasPrefix(call, "fsPromises.") && !slices.Contains([]string{"axios.get", "axios.post", "axios.put", "axios.delete"}, call) {
			continue
		}
		if from > 0 && !c.tokens[from-1].is(";", "{", "}") { // no statement of its own
			continue
		}
		end := closing(c.tokens, i+1)
		if end > 0 && end+1 < len(c.tokens) && c.tokens[end+1].is(";") {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsCatch(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("catch") || i == 0 || !c.tokens[i-1].is("}") || c.test {
			continue
		}
		j := i + 1
		if j < len(c.tokens) && c.tokens[j].is("(") {
			if j = closing(c.tokens, j) + 1; j == 0 {
				continue
			}
		}
		if j+1 < len(c.tokens) && c.tokens[j].is("{") && c.tokens[j+1].is("}") && !slices.Contains(c.notes[t.line:c.tokens[j+1].line+1], true) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsBuffer(c *code) (found []hit) {
	for i, t := range c.tokens {
		if t.is("Buffer") && i > 0 && i+1 < len(c.tokens) && c.tokens[i-1].is("new") && c.tokens[i+1].is("(") {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsTLS(c *code) (found []hit) {
	for i, t := range c.tokens {
		if c.test || i+2 >= len(c.tokens) {
			continue
		}
		if t.text == "rejectUnauthorized" && c.tokens[i+1].is(":", "=") && c.tokens[i+2].is("false") ||
			t.text == "NODE_TLS_REJECT_UNAUTHORIZED" && c.tokens[i+1].is("=") && c.tokens[i+2].text == "0" {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsRandom(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("random") || c.test || i < 2 || !c.tokens[i-2].is("Math") {
			continue
		}
		for j := i - 3; j >= max(0, i-reach) && c.tokens[j].line == t.line; j-- {
			if c.tokens[j].kind == name && secretName(c.tokens[j].text) {
				found = append(found, hit{line: t.line})
				break
			}
		}
	}
	return found
}

func jsNaN(c *code) (found []hit) {
	for i, t := range c.tokens {
		if t.is("===", "==", "!==", "!=") && i > 0 && i+1 < len(c.tokens) && (c.tokens[i+1].is("NaN") || c.tokens[i-1].is("NaN")) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func jsAssigned(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("if") || i+5 >= len(c.tokens) || !c.tokens[i+1].is("(") || i > 0 && c.tokens[i-1].is(".") {
			continue
		}
		end := closing(c.tokens, i+1)
		if end < 0 || c.tokens[i+2].is("(") {
			continue
		}
		for j := i + 2; j < end && (c.tokens[j].kind == name || c.tokens[j].is(".", "=")); j++ {
			if c.tokens[j].is("=") && (c.tokens[j+1].kind == literal || c.tokens[j+1].kind == number || c.tokens[j+1].is("true", "false", "null", "undefined")) {
				found = append(found, hit{line: t.line})
				break
			}
		}
	}
	return found
}

func jsTypeof(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("typeof") {
			continue
		}
		j := i + 1
		for j < min(len(c.tokens), i+reach) && (c.tokens[j].kind == name || c.tokens[j].is(".")) {
			j++
		}
		if j+1 < len(c.tokens) && c.tokens[j].is("===", "==", "!==", "!=") && c.tokens[j+1].kind == literal && c.tokens[j+1].prefix == "" &&
			!slices.Contains([]string{"undefined", "object", "boolean", "number", "string", "symbol", "function", "bigint", "unknown"}, c.tokens[j+1].text) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}
