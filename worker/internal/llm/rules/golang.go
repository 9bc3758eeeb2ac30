package rules

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

var golang = language{
	syntax: syntax{comment: []string{"//"}, block: true, quotes: `"'`, plain: "`"},
}

func init() { golang.rules = goRules } // whose parser scans as golang does

var goRules = []rule{
	{"go/unchecked-error", "The error of this call is not checked",
		"When the call fails, the code after it continues as if it had worked. Check the error, or assign it to _ if it does not matter.",
		review.ErrorHandling, review.Medium, 0.85, goUnchecked},
	{"go/discarded-error", "The error of this call is discarded, and its result is used",
		"When the call fails, its result is a zero value, and the code uses it as if it were valid. Check the error before using the result.",
		review.ErrorHandling, review.Medium, 0.7, goDiscarded},
	{"go/defer-in-loop", "A defer in a loop runs only when the function returns",
		"Each iteration adds one, so files, locks or connections accumulate until the function returns. Move the body of the loop into a function, or release the resource at the end of the iteration.",
		review.Correctness, review.Medium, 0.85, goDeferInLoop},
	{"go/defer-before-check", "The deferred call uses a result before its error is checked",
		"When the call before failed, its result is nil, and the deferred call panics. Check the error first, then defer.",
		review.Correctness, review.High, 0.9, goDeferBeforeCheck},
	{"go/body-not-closed", "The body of this response is never closed",
		"The connection cannot be reused and stays open, so each call leaks one. Defer resp.Body.Close() after the error check.",
		review.Correctness, review.Medium, 0.8, goBodyOpen},
	{"go/rows-err", "rows.Err is not checked after the loop",
		"rows.Next also returns false when the connection fails, so an incomplete result looks complete. Check rows.Err() after the loop.",
		review.ErrorHandling, review.Medium, 0.8, goRowsErr},
	{"go/http-no-timeout", "This HTTP call has no timeout",
		"Without a timeout the call can block for ever when the server does not respond. Use a client with a Timeout, or a request with a deadline in its context.",
		review.Correctness, review.Medium, 0.75, goNoTimeout},
	{"go/server-no-timeout", "This HTTP server has no timeouts",
		"A slow client can hold a connection and a goroutine for ever. Use an http.Server with ReadHeaderTimeout.",
		review.Correctness, review.Low, 0.7, goServer},
	{"go/shell-injection", "A shell command is built from a variable",
		"A user who controls the value can run other commands. Run the program directly with a list of arguments, without a shell.",
		review.Security, review.High, 0.85, goShell},
	{"go/sql-injection", "An SQL statement is built by inserting a value",
		"A user who controls the value can change the statement. Use a placeholder and pass the value as an argument.",
		review.Security, review.High, 0.85, goSQL},
	{"go/tls-unverified", "Certificates are not verified",
		"An attacker on the network can impersonate the server and read the requests. Add the server's CA to RootCAs instead.",
		review.Security, review.High, 0.8, goTLS},
	{"go/world-writable", "This file or folder is writable by every user of the machine",
		"Another user can replace its contents. Give write permission to the owner alone: 0o755 or 0o700 for folders, 0o644 or 0o600 for files.",
		review.Security, review.Medium, 0.75, goWritable},
	{"go/result-unused", "The result of this call is unused",
		"The function has no side effect, so the line does nothing: an assignment or a return is missing.",
		review.Correctness, review.Medium, 0.95, goUnused},
	{"go/lost-cancel", "The cancel function is discarded",
		"Without a call of cancel, the context and its timer live until the parent ends. Keep the function and defer it.",
		review.Correctness, review.Medium, 0.9, goLostCancel},
	{"go/sleep-unit", "A duration without a unit is in nanoseconds",
		"The duration is a few nanoseconds. Multiply the number by time.Second or time.Millisecond.",
		review.Correctness, review.Medium, 0.9, goUnit},
	{"go/nil-check", "The condition uses a value that is nil there",
		"The right side is evaluated only when the value is nil, and then panics. One of the two operators is wrong.",
		review.Correctness, review.High, 0.9, goNilCheck},
	{"go/nil-error", "The error is returned where it is nil",
		"In this branch the error is nil, so the caller sees success without a result. The condition is inverted, or the wrong error is returned.",
		review.ErrorHandling, review.Medium, 0.75, goNilError},
	{"go/lost-error", "The error is overwritten before it is checked",
		"The next call assigns to the same variable, so a failure of this call is lost. Check the error after each call.",
		review.ErrorHandling, review.Medium, 0.85, goLostError},
	{"go/sentinel-compare", "A wrapped error is not found by comparison",
		"When the error is wrapped with context, == is false. Use errors.Is.",
		review.ErrorHandling, review.Low, 0.7, goSentinel},
	{"go/missing-return", "The handler continues after http.Error",
		"http.Error does not end the handler, so the code after it runs with invalid input and writes a second response. Return after it.",
		review.Correctness, review.High, 0.85, goMissingReturn},
	{"go/nil-map", "A nil map is written to",
		"The map is declared without a value, so the first write panics. Initialise it with make or a literal.",
		review.Correctness, review.High, 0.9, goNilMap},
	{"go/wait-group-race", "WaitGroup.Add runs inside the goroutine that it counts",
		"Wait can return before the goroutine has called Add. Call Add before the go statement.",
		review.Concurrency, review.High, 0.9, goWaitGroup},
	{"go/double-lock", "A lock is taken again where it should be released",
		"The deferred call locks again, so the function deadlocks when it returns. Defer Unlock.",
		review.Concurrency, review.High, 0.95, goDoubleLock},
	{"go/fatal-in-goroutine", "t.Fatal in a goroutine does not end the test",
		"It ends the goroutine only; the test continues, or hangs waiting for it. Use t.Error and return, or send the error to the test.",
		review.Tests, review.Low, 0.8, goFatal},
}

// fallible are functions whose error says whether anything happened at all.
var fallible = []string{
	"json.Unmarshal", "xml.Unmarshal", "yaml.Unmarshal", "toml.Unmarshal", "proto.Unmarshal", "gob.NewDecoder().Decode", "json.NewDecoder().Decode", "xml.NewDecoder().Decode",
	"yaml.NewDecoder().Decode", "os.WriteFile", "ioutil.WriteFile", "os.Rename", "os.MkdirAll", "os.Mkdir", "os.Chmod", "os.Chown", "os.Symlink", "os.Link", "os.Truncate", "os.Chdir",
	"io.ReadFull", "binary.Read", "filepath.Walk", "filepath.WalkDir", "syscall.Mount", "unix.Mount", "pem.Encode",
	"flag.Set", "tx.Commit", "db.Ping",
}

func goUnchecked(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, _ []ast.Node) bool {
		call := c.statement(f, n)
		if call == nil || c.test || c.notes[f.at(n.Pos())] {
			return false
		}
		w := way(call.Fun)
		return slices.Contains(fallible, w) || len(call.Args) > 0 && (strings.HasSuffix(w, ".Unmarshal") || strings.HasSuffix(w, ".UnmarshalJSON"))
	})
}

// statement returns the call that a statement is, or nil. Where a hunk begins or ends
// within something, the parser takes pieces of expressions for statements, so what is
// beside the call on its lines counts too.
func (c *code) statement(f function, n ast.Node) *ast.CallExpr {
	s, ok := n.(*ast.ExprStmt)
	if !ok {
		return nil
	}
	call, ok := s.X.(*ast.CallExpr)
	from, to := f.fset.Position(s.Pos()), f.fset.Position(s.End())
	first, last := from.Line+f.shift, to.Line+f.shift
	if !ok || first < 0 || last < first || last >= len(c.lines) {
		return nil
	}
	rest := c.lines[last].text
	rest = rest[min(len(rest), f.column(to)):]
	if before := c.lines[first].text; strings.TrimSpace(before[:min(len(before), f.column(from))]) != "" {
		return nil
	}
	if rest = strings.TrimSpace(rest); rest != "" && !strings.HasPrefix(rest, "//") {
		return nil
	}
	return call
}

// isError reports whether a variable is named as errors are.
func isError(name string) bool {
	return name == "err" || strings.HasSuffix(name, "Err") || strings.HasSuffix(name, ".err")
}

// yielding are functions whose result means nothing after an error, or panics when it
// is used.
var yielding = []string{
	"strconv.Atoi", "strconv.ParseInt", "strconv.ParseUint", "strconv.ParseFloat", "strconv.ParseBool", "os.Open", "os.Create", "os.OpenFile",
	"http.NewRequest", "http.NewRequestWithContext", "http.Get", "http.Post", "time.Parse", "hex.DecodeString", "base64.StdEncoding.DecodeString",
	"sql.Open", "net.Listen", "net.Dial", "template.ParseFiles", "time.ParseDuration", "time.LoadLocation", "x509.ParseCertificate", "ioutil.TempDir", "os.MkdirTemp",
}

func goDiscarded(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, _ []ast.Node) bool {
		a, ok := n.(*ast.AssignStmt)
		if !ok || c.test || len(a.Lhs) != 2 || len(a.Rhs) != 1 || way(a.Lhs[1]) != "_" || way(a.Lhs[0]) == "_" {
			return false
		}
		call, ok := a.Rhs[0].(*ast.CallExpr)
		if !ok || !slices.Contains(yielding, way(call.Fun)) || c.noted(f.at(a.Pos())) {
			return false
		}
		return !constant(call.Args) && !matched(call.Args[0])
	})
}

// matched reports whether a text is an element of something, as of the match of a regular
// expression, which has seen to its form.
func matched(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.IndexExpr, *ast.SliceExpr:
		return true
	case *ast.CallExpr:
		return len(e.Args) == 1 && matched(e.Args[0])
	}
	return false
}

// noted reports whether a line, or the one above it, has a comment, which may say why.
func (c *code) noted(line int) bool {
	return line >= 0 && line < len(c.notes) && (c.notes[line] || line > 0 && c.notes[line-1])
}

func constant(args []ast.Expr) bool {
	for _, a := range args {
		if _, ok := a.(*ast.BasicLit); !ok {
			return false
		}
	}
	return len(args) > 0
}

func goDeferInLoop(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, within []ast.Node) bool {
		d, ok := n.(*ast.DeferStmt)
		if !ok || c.test {
			return false
		}
		for i := len(within) - 1; i >= 0; i-- {
			var body *ast.BlockStmt
			switch w := within[i].(type) {
			case *ast.FuncLit:
				return false
			case *ast.ForStmt:
				if w.Cond == nil && w.Post == nil {
					return false // may run once, and end with a return
				}
				body = w.Body
			case *ast.RangeStmt:
				body = w.Body
			default:
				continue
			}
			last := body.List[len(body.List)-1]
			_, returns := last.(*ast.ReturnStmt)
			b, breaks := last.(*ast.BranchStmt)
			return !returns && !(breaks && b.Tok == token.BREAK) && !kept(body, root(d.Call))
		}
		return false
	})
}

// root returns the variable that a call is made on, or "".
func root(call *ast.CallExpr) string {
	before, _, _ := strings.Cut(way(call.Fun), ".")
	return before
}

// kept reports whether the body of a loop puts a variable where it outlives the round.
func kept(body *ast.BlockStmt, variable string) bool {
	found := false
	ast.Inspect(body, func(n ast.Node) bool {
		a, ok := n.(*ast.AssignStmt)
		if !ok || found {
			return !found
		}
		for i, r := range a.Rhs {
			_, plain := a.Lhs[min(i, len(a.Lhs)-1)].(*ast.Ident)
			call, _ := r.(*ast.CallExpr)
			found = found || mentions(r, variable) && (way(r) == variable || a.Tok == token.ASSIGN && !plain || call != nil && way(call.Fun) == "append")
		}
		return !found
	})
	return found
}

// results returns the variables that a statement assigns a call's results to.
func results(s ast.Stmt) (names []string, call *ast.CallExpr) {
	a, ok := s.(*ast.AssignStmt)
	if !ok || len(a.Rhs) != 1 {
		return nil, nil
	}
	call, _ = a.Rhs[0].(*ast.CallExpr)
	if call == nil {
		return nil, nil
	}
	for _, l := range a.Lhs {
		names = append(names, way(l))
	}
	return names, call
}

func goDeferBeforeCheck(c *code) []hit {
	return c.lists(func(_ function, list []ast.Stmt) (all []ast.Node) {
		for i := 0; i+2 < len(list); i++ {
			names, call := results(list[i])
			d, ok := list[i+1].(*ast.DeferStmt)
			check, isIf := list[i+2].(*ast.IfStmt)
			if call == nil || len(names) < 2 || !ok || !isIf || check.Init != nil {
				continue
			}
			failed := names[len(names)-1]
			if strings.HasPrefix(way(d.Call.Fun), names[0]+".") && strings.Contains(strings.ToLower(failed), "err") && mentions(check.Cond, failed) {
				all = append(all, d)
			}
		}
		return all
	})
}

func goBodyOpen(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, within []ast.Node) bool {
		s, ok := n.(ast.Stmt)
		if !ok || !f.whole || f.decl == nil || f.decl.Body == nil || c.test {
			return false
		}
		names, call := results(s)
		if call == nil || len(names) != 2 || names[0] == "_" || strings.Contains(names[0], ".") {
			return false
		}
		switch w := way(call.Fun); {
		case w == "http.Get", w == "http.Post", w == "http.PostForm", w == "http.Head", w == "http.DefaultClient.Do":
		case strings.HasSuffix(strings.ToLower(w), "client.do") && len(call.Args) == 1 && strings.HasPrefix(names[0], "res"):
		default:
			return false
		}
		closed := false
		ast.Inspect(f.decl.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				closed = closed || way(n.Fun) == names[0]+".Body.Close" || slices.ContainsFunc(n.Args, func(a ast.Expr) bool { return way(a) == names[0] })
			case *ast.ReturnStmt:
				for _, r := range n.Results {
					closed = closed || way(r) == names[0] || way(r) == names[0]+".Body"
				}
			case *ast.AssignStmt:
				for _, r := range n.Rhs {
					closed = closed || way(r) == names[0] || way(r) == names[0]+".Body" || way(r) == names[0]+".Body.Close"
				}
			case *ast.CompositeLit:
				closed = closed || mentions(n, names[0])
			}
			return !closed
		})
		return !closed
	})
}

func goRowsErr(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, _ []ast.Node) bool {
		loop, ok := n.(*ast.ForStmt)
		if !ok || !f.whole || loop.Cond == nil || c.test {
			return false
		}
		next, ok := loop.Cond.(*ast.CallExpr)
		if !ok || !strings.HasSuffix(way(next.Fun), ".Next") || len(next.Args) > 0 {
			return false
		}
		rows := strings.TrimSuffix(way(next.Fun), ".Next")
		scans, asked := false, false
		ast.Inspect(f.node, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				scans = scans || way(call.Fun) == rows+".Scan"
				asked = asked || way(call.Fun) == rows+".Err" || slices.ContainsFunc(call.Args, func(a ast.Expr) bool { return way(a) == rows })
			}
			return true
		})
		return scans && !asked && strings.Contains(strings.ToLower(rows), "row")
	})
}

func goNoTimeout(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		if c.test {
			return false
		}
		switch n := n.(type) {
		case *ast.CallExpr:
			w := way(n.Fun)
			return w == "http.Get" || w == "http.Post" || w == "http.PostForm" || w == "http.Head"
		case *ast.CompositeLit:
			return way(n.Type) == "http.Client" && len(n.Elts) == 0
		}
		return false
	})
}

func goServer(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || c.test {
			return false
		}
		w := way(call.Fun)
		return w == "http.ListenAndServe" || w == "http.ListenAndServeTLS" || w == "http.Serve"
	})
}

// variable reports whether an expression of text has a part that is no literal, constant
// or number.
func variable(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return false
	case *ast.ParenExpr:
		return variable(e.X)
	case *ast.BinaryExpr:
		return variable(e.X) || variable(e.Y)
	case *ast.CallExpr:
		if w := way(e.Fun); strings.Contains(strings.ToLower(w), "quote") || strings.Contains(strings.ToLower(w), "escape") || strings.HasPrefix(w, "strconv.") {
			return false
		}
	case *ast.Ident:
		return strings.ToUpper(e.Name) != e.Name
	}
	return true
}
