package rules

import (
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

var python = language{
	syntax: syntax{comment: []string{"#"}, quotes: `"'`, triple: true, lines: true},
	rules: []rule{
		{"py/mutable-default", "A default argument is shared by all calls",
			"The default is created once, so a change made by one call is visible in the next. Use None, and create the value inside the function.",
			review.Correctness, review.Medium, 0.8, pyDefault},
		{"py/bare-except", "A bare except catches everything",
			"It also catches KeyboardInterrupt, SystemExit and programming errors such as NameError. Name the expected exceptions.",
			review.ErrorHandling, review.Medium, 0.8, pyBareExcept},
		{"py/swallowed-exception", "All exceptions are ignored",
			"A failure in this block leaves no trace. Catch the expected exceptions only, and log the others.",
			review.ErrorHandling, review.Low, 0.7, pySwallowed},
		{"py/yaml-load", "yaml.load without a safe loader can run code from the document",
			"A document can construct any Python object, and so run code. Use yaml.safe_load.",
			review.Security, review.High, 0.9, pyYAML},
		{"py/shell-injection", "A shell command is built from a variable",
			"A user who controls the value can run other commands. Use subprocess with a list of arguments and without shell=True.",
			review.Security, review.High, 0.8, pyShell},
		{"py/sql-injection", "An SQL statement is built by inserting a value",
			"A user who controls the value can change the statement. Use a placeholder and pass the value as a parameter.",
			review.Security, review.High, 0.85, pySQL},
		{"py/literal-identity", "A literal is compared by identity",
			"is compares identity, and whether equal numbers or strings are one object depends on the interpreter. Use ==.",
			review.Correctness, review.Medium, 0.9, pyIs},
		{"py/not-implemented", "NotImplemented is no exception",
			"raise NotImplemented fails with a TypeError. Raise NotImplementedError.",
			review.Correctness, review.Medium, 0.95, pyNotImplemented},
		{"py/file-not-closed", "The file is never closed",
			"It stays open until garbage collection or after an exception, and written data may not reach the disk. Open it in a with statement.",
			review.Correctness, review.Low, 0.8, pyOpen},
		{"py/mktemp", "tempfile.mktemp has a race condition",
			"Another user can create a file or link of that name before it is opened. Use mkstemp or NamedTemporaryFile.",
			review.Security, review.Medium, 0.9, pyMktemp},
		{"py/request-no-timeout", "This HTTP call has no timeout",
			"Without a timeout the call can block for ever when the server does not respond. Pass timeout.",
			review.Correctness, review.Medium, 0.75, pyTimeout},
		{"py/tls-unverified", "Certificates are not verified",
			"An attacker on the network can impersonate the server and read the requests. Pass the path of the CA certificate as verify instead.",
			review.Security, review.High, 0.85, pyVerify},
		{"py/eval", "A variable is evaluated as code",
			"A user who controls the text can run any code in this process. Use ast.literal_eval or json for data, and getattr for names.",
			review.Security, review.High, 0.75, pyEval},
		{"py/assert-tuple", "An assertion of a tuple never fails",
			"A non-empty tuple is always true. Remove the parentheses.",
			review.Correctness, review.High, 0.95, pyAssertTuple},
		{"py/assert-validation", "An assertion validates input",
			"python -O removes assertions, and the check with them. Raise an exception.",
			review.Security, review.Medium, 0.7, pyAssert},
		{"py/debug-server", "The server runs in debug mode",
			"The debugger lets every visitor run code. Leave debug out, or read it from the environment.",
			review.Security, review.High, 0.85, pyDebug},
	},
}

func pyDefault(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("def") || i+2 >= len(c.tokens) || !c.tokens[i+2].is("(") || c.test {
			continue
		}
		args, _ := arguments(c.tokens, i+2)
		for _, a := range args {
			at := slices.IndexFunc(a, func(t lexeme) bool { return t.is("=") })
			if at < 1 || strings.HasPrefix(a[0].text, "_") || strings.Contains(a[0].text, "cache") { // meant to be shared
				continue
			}
			switch v := join(a[at+1:]); {
			case v == "[]", v == "{}", v == "list()", v == "dict()", v == "set()":
				found = append(found, hit{line: a[at].line})
			}
		}
	}
	return found
}

// suite returns the tokens of the block that a colon at i begins, in the hunk.
func suite(c *code, i int) (body []lexeme) {
	if i+1 < len(c.tokens) && c.tokens[i+1].kind != newline { // on the same line
		return expression(c.tokens[i+1:])
	}
	outer := indent(c.lines[c.tokens[i].line].text)
	for j := i + 2; j < min(len(c.tokens), i+reach); j++ {
		if indent(c.lines[c.tokens[j].line].text) <= outer && c.tokens[j].kind != newline && c.tokens[j-1].kind == newline {
			return c.tokens[i+2 : j]
		}
	}
	if i+2 < len(c.tokens) {
		return c.tokens[i+2 : min(len(c.tokens), i+reach)]
	}
	return nil
}

func indent(s string) int { return len(s) - len(strings.TrimLeft(s, " \t")) }

func has(tokens []lexeme, words ...string) bool {
	return slices.ContainsFunc(tokens, func(t lexeme) bool { return t.is(words...) })
}

func pyBareExcept(c *code) (found []hit) {
	for i, t := range c.tokens {
		if t.is("except") && i+1 < len(c.tokens) && c.tokens[i+1].is(":") && !c.test {
			if body := suite(c, i+1); !raisesAgain(body) {
				found = append(found, hit{line: t.line})
			}
		}
	}
	return found
}

// raisesAgain reports whether a block raises what it caught.
func raisesAgain(body []lexeme) bool {
	for i, t := range body {
		if t.is("raise") && (i+1 == len(body) || body[i+1].kind == newline) {
			return true
		}
	}
	return false
}

func pySwallowed(c *code) (found []hit) {
	for i, t := range c.tokens {
		if c.test || !t.is("except") || i+3 >= len(c.tokens) || !c.tokens[i+1].is("Exception", "BaseException") {
			continue
		}
		j := i + 2
		if c.tokens[j].is("as") {
			j += 2
		}
		if j >= len(c.tokens) || !c.tokens[j].is(":") {
			continue
		}
		body := slices.DeleteFunc(slices.Clone(suite(c, j)), func(t lexeme) bool { return t.kind == newline })
		if len(body) == 1 && body[0].is("pass") && !slices.Contains(c.notes[t.line:body[0].line+1], true) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

// calls calls visit with each call of a function whose dotted name is among names, the
// line of its name, and its arguments, as far as they are in the hunk.
func calls(c *code, visit func(call string, line int, args [][]lexeme, closed bool) bool) (found []hit) {
	for i, t := range c.tokens {
		if t.kind != name || i+1 >= len(c.tokens) || !c.tokens[i+1].is("(") {
			continue
		}
		call, from := dotted(c.tokens, i)
		if from > 0 && c.tokens[from-1].is("def", "class", ".") {
			if !c.tokens[from-1].is(".") {
				continue
			}
			call = "." + call
		}
		args, closed := arguments(c.tokens, i+1)
		if visit(call, t.line, args, closed) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

// named returns the value of a named argument.
func named(args [][]lexeme, word string) ([]lexeme, bool) {
	for _, a := range args {
		if len(a) >= 3 && a[0].is(word) && a[1].is("=") {
			return a[2:], true
		}
	}
	return nil, false
}

// spread reports whether arguments hold **options.
func spread(args [][]lexeme) bool {
	return slices.ContainsFunc(args, func(a []lexeme) bool { return len(a) > 0 && a[0].is("**") })
}

func pyYAML(c *code) []hit {
	return calls(c, func(call string, _ int, args [][]lexeme, closed bool) bool {
		if call != "yaml.load" && call != "yaml.load_all" || !closed || c.test || spread(args) {
			return false
		}
		loader, ok := named(args, "Loader")
		if !ok && len(args) > 1 {
			loader, ok = args[1], true
		}
		return !ok || has(loader, "Loader", "UnsafeLoader", "FullLoader")
	})
}

// built reports whether an expression puts text together from variables.
func built(expr []lexeme) bool {
	for i, t := range expr {
		if t.kind == literal && slices.ContainsFunc(t.holes, func(h string) bool { return !safe(h) }) {
			return true
		}
		if t.kind == literal && i+1 < len(expr) && (expr[i+1].is("%", "+") && !fixedText(expr[i+2:]) || expr[i+1].is(".") && i+2 < len(expr) && expr[i+2].is("format")) && !safe(join(expr[i+1:])) {
			return true
		}
		if t.is("+") && i > 0 && i+1 < len(expr) && expr[i+1].kind == literal && !fixedText(expr[:i]) && !safe(join(expr)) {
			return true
		}
	}
	return false
}

func pyShell(c *code) []hit {
	return calls(c, func(call string, _ int, args [][]lexeme, _ bool) bool {
		if c.test || len(args) == 0 || has(args[0], "quote") {
			return false
		}
		switch call {
		case "os.system", "os.popen", "commands.getoutput", "commands.getstatusoutput", "subprocess.getoutput", "subprocess.getstatusoutput":
			return built(args[0])
		case "subprocess.call", "subprocess.run", "subprocess.Popen", "subprocess.check_call", "subprocess.check_output", "Popen", "check_output", "check_call":
			v, ok := named(args, "shell")
			return ok && has(v, "True") && (built(args[0]) || len(args[0]) == 1 && args[0][0].kind == name)
		}
		return false
	})
}

func pySQL(c *code) (found []hit) {
	for i, t := range c.tokens {
		if c.test || t.kind != literal || !isSQL(t.text) {
			continue
		}
		switch next := c.tokens[min(i+1, len(c.tokens)-1)]; {
		case injected(t):
		case next.is("+") && isValue(t.text) && i+2 < len(c.tokens) && !fixedText(c.tokens[i+2:i+3]) && !escapes(c.tokens[i+2:]):
		case next.is("%") && places(t.text, "%s") && !fixedText(expression(c.tokens[i+2:])) && !safe(join(expression(c.tokens[i+2:]))):
		case next.is(".") && i+2 < len(c.tokens) && c.tokens[i+2].is("format") && places(t.text, "{"):
		default:
			continue
		}
		found = append(found, hit{line: t.line})
	}
	return found
}

// places reports whether what stands for a value in a statement is in a place of one.
func places(s, value string) bool {
	for i := strings.Index(s, value); i >= 0; {
		if isValue(s[:i]) {
			return true
		}
		next := strings.Index(s[i+1:], value)
		if next < 0 {
			break
		}
		i += 1 + next
	}
	return false
}

func pyIs(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("is") || i == 0 || i+1 >= len(c.tokens) {
			continue
		}
		next := c.tokens[i+1]
		if next.is("not") && i+2 < len(c.tokens) {
			next = c.tokens[i+2]
		}
		if next.is("-") && i+2 < len(c.tokens) {
			next = c.tokens[i+2]
		}
		if next.kind == literal || next.kind == number {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func pyNotImplemented(c *code) (found []hit) {
	for i, t := range c.tokens {
		if t.is("raise") && i+1 < len(c.tokens) && c.tokens[i+1].is("NotImplemented") {
			found = append(found, hit{line: t.line, replace: strings.Replace(c.lines[t.line].text, "NotImplemented", "NotImplementedError", 1)})
		}
	}
	return found
}

func pyOpen(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("open") || c.test || i+1 >= len(c.tokens) || !c.tokens[i+1].is("(") {
			continue
		}
		call, from := dotted(c.tokens, i)
		if call != "open" && call != "io.open" && call != "codecs.open" || from > 0 && c.tokens[from-1].is(".", "def") {
			continue
		}
		end := closing(c.tokens, i+1)
		if end < 0 {
			continue
		}
		read := end+2 < len(c.tokens) && c.tokens[end+1].is(".") && c.tokens[end+2].is("read", "readlines", "write", "readline")
		before, _ := "", 0
		if from >= 2 && c.tokens[from-1].is("(") {
			before, _ = dotted(c.tokens, from-2)
		}
		if read || slices.Contains([]string{"json.load", "pickle.load", "yaml.load", "yaml.safe_load", "csv.reader", "csv.DictReader"}, before) || from > 0 && c.tokens[from-1].is("in") && end+1 < len(c.tokens) && c.tokens[end+1].is(":") || straight(c, from, end) {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

// straight reports whether the file that is opened at i, and whose call ends at end, is
// assigned, used and closed with nothing that closes it after an exception.
func straight(c *code, i, end int) bool {
	if i < 2 || !c.tokens[i-1].is("=") || c.tokens[i-2].kind != name || i >= 3 && c.tokens[i-3].kind != newline && !c.tokens[i-3].is(":") || end+2 >= len(c.tokens) || c.tokens[end+1].kind != newline {
		return false
	}
	file, depth := c.tokens[i-2].text, indent(c.lines[c.tokens[i-2].line].text)
	if c.tokens[end+2].is("try", "with") {
		return false
	}
	for j := end + 2; j+2 < min(len(c.tokens), end+reach); j++ {
		if c.tokens[j-1].kind != newline {
			continue
		}
		switch in := indent(c.lines[c.tokens[j].line].text); {
		case in < depth:
			return false
		case in == depth && c.tokens[j].is(file) && c.tokens[j+1].is(".") && c.tokens[j+2].is("close"):
			return true
		case c.tokens[j].is("return", "try", "with"):
			return false
		}
	}
	return false
}

func pyMktemp(c *code) []hit {
	return calls(c, func(call string, _ int, _ [][]lexeme, _ bool) bool { return call == "tempfile.mktemp" && !c.test })
}

func pyTimeout(c *code) []hit {
	return calls(c, func(call string, _ int, args [][]lexeme, closed bool) bool {
		switch call {
		case "requests.get", "requests.post", "requests.put", "requests.delete", "requests.patch", "requests.head":
			_, ok := named(args, "timeout")
			return closed && !ok && !spread(args) && !c.test
		}
		return false
	})
}

func pyVerify(c *code) []hit {
	return calls(c, func(call string, _ int, args [][]lexeme, _ bool) bool {
		v, ok := named(args, "verify")
		return ok && len(v) == 1 && v[0].is("False") && !c.test && (strings.HasPrefix(call, "requests.") || strings.Contains(strings.ToLower(call), "session") || strings.HasPrefix(call, "httpx."))
	})
}

func pyEval(c *code) []hit {
	return calls(c, func(call string, _ int, args [][]lexeme, _ bool) bool {
		return (call == "eval" || call == "exec") && len(args) > 0 && !fixedText(args[0]) && !has(args[0], "compile") && !c.test
	})
}

func pyAssertTuple(c *code) (found []hit) {
	for i, t := range c.tokens {
		if !t.is("assert") || i+1 >= len(c.tokens) || !c.tokens[i+1].is("(") {
			continue
		}
		end := closing(c.tokens, i+1)
		args, _ := arguments(c.tokens, i+1)
		if end > 0 && len(args) == 2 && len(args[1]) > 0 && args[1][0].kind == literal && (end+1 >= len(c.tokens) || c.tokens[end+1].kind == newline) && !has(args[0], "for") {
			found = append(found, hit{line: t.line})
		}
	}
	return found
}

func pyAssert(c *code) (found []hit) {
	var params []string // of the public function that the line is in
	for i, t := range c.tokens {
		switch {
		case t.is("def") && i+2 < len(c.tokens):
			params = public(c.tokens[i:])
		case t.is("assert") && !c.test && (i == 0 || c.tokens[i-1].kind == newline) && i+1 < len(c.tokens):
			e := expression(c.tokens[i+1:])
			if len(e) > 1 && e[0].is("request", "current_user") && e[1].is(".") || ofArguments(e, params) {
				found = append(found, hit{line: t.line})
			}
		}
	}
	return found
}

// public returns the parameters of the function that tokens begin with, none of one whose
// name says that others do not call it.
func public(tokens []lexeme) (params []string) {
	if fn := tokens[1].text; strings.HasPrefix(fn, "_") && fn != "__init__" || !tokens[2].is("(") {
		return nil
	}
	args, _ := arguments(tokens, 2)
	for _, a := range args {
		for _, t := range a {
			if t.kind == name {
				if !t.is("self", "cls") {
					params = append(params, t.text)
				}
				break
			}
		}
	}
	return params
}

// ofArguments reports whether a condition asks for the type of a parameter.
func ofArguments(e []lexeme, params []string) bool {
	for i, t := range e {
		if t.is("isinstance", "type", "issubclass") && i+2 < len(e) && e[i+1].is("(") && slices.Contains(params, e[i+2].text) {
			return true
		}
	}
	return false
}

func pyDebug(c *code) []hit {
	return calls(c, func(call string, _ int, args [][]lexeme, _ bool) bool {
		v, ok := named(args, "debug")
		return ok && len(v) == 1 && v[0].is("True") && call == "app.run" && !c.test
	})
}
