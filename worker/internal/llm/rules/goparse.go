package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// function is a function of a hunk, or the part of one that the hunk has.
type function struct {
	fset  *token.FileSet
	shift int           // from lines of fset to indices of code.lines
	decl  *ast.FuncDecl // nil for what is no function, such as variables
	node  ast.Node
	whole bool // all of it is there

	first, indented int // the line that has text before what is in the hunk, and how much
}

// at returns the index in code.lines of a place in f.
func (f function) at(p token.Pos) int { return f.fset.Position(p).Line + f.shift }

// column returns the index of a place in its line.
func (f function) column(p token.Position) int {
	if p.Line+f.shift == f.first && f.indented > 0 {
		return p.Column - 1 - f.indented
	}
	return p.Column - 1
}

var beginnings = []string{"func ", "type ", "var ", "const ", "import ", "package "}

// functions parses what can be parsed of the lines of a hunk: the declarations that begin
// in it, and the end of the one that began before. Code is formatted by gofmt, nearly
// always, so a declaration begins where a line does.
func functions(lines []line) (all []function) {
	var starts []int
	for i, l := range lines {
		if hasAny(l.text, beginnings) {
			starts = append(starts, i)
		}
	}
	first := len(lines)
	if len(starts) > 0 {
		first = starts[0]
	}
	if f, ok := fragment(lines[:first]); ok {
		all = append(all, f)
	}
	for i, from := range starts {
		to := len(lines)
		if i+1 < len(starts) {
			to = starts[i+1]
		}
		all = append(all, declaration(lines[from:to], from)...)
	}
	return all
}

// declaration parses lines that begin a declaration.
func declaration(lines []line, from int) (all []function) {
	text := source(lines)
	before, behind := unmatched(text)
	if len(before) > 0 { // more is closed than was opened, so it is not what it looks like
		return nil
	}
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "", "package p;"+text+behind, parser.SkipObjectResolution|parser.AllErrors)
	if file == nil {
		return nil
	}
	for _, d := range file.Decls {
		f := function{fset: fset, shift: from - 1, node: d, whole: err == nil && behind == "", first: from, indented: len("package p;")}
		f.decl, _ = d.(*ast.FuncDecl)
		all = append(all, f)
	}
	return all
}

// fragment parses the rest of a function that began before its lines.
func fragment(lines []line) (function, bool) {
	for i, l := range lines {
		if strings.HasPrefix(l.text, "}") || strings.HasPrefix(l.text, ")") {
			lines = lines[:i]
			break
		}
	}
	text := source(lines)
	if strings.TrimSpace(text) == "" {
		return function{}, false
	}
	before, behind := unmatched(text)
	fset := token.NewFileSet()
	file, _ := parser.ParseFile(fset, "", "package p; func _() {"+strings.Join(before, " ")+"\n"+text+behind+"\n}", parser.SkipObjectResolution|parser.AllErrors)
	if file == nil || len(file.Decls) == 0 {
		return function{}, false
	}
	f := function{fset: fset, shift: -2, node: file.Decls[0], first: -1}
	f.decl, _ = file.Decls[0].(*ast.FuncDecl)
	return f, true
}

func source(lines []line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
	}
	return b.String()
}

// unmatched returns what opens the brackets that text closes only, the outermost first,
// and what closes those that it opens only. Before a case stands a switch.
func unmatched(text string) (before []string, behind string) {
	tokens, _ := golang.syntax.scan(split(text))
	var open []string
	cases := false // on the outermost level that is open now
	for i, t := range tokens {
		switch {
		case t.is("(", "[", "{"):
			open = append(open, map[string]string{"(": ")", "[": "]", "{": "}"}[t.text])
		case t.is(")", "]", "}") && len(open) > 0:
			open = open[:len(open)-1]
		case t.is(")"):
			before = append(before, "_(")
			cases = false
		case t.is("]"):
			before = append(before, "_[")
		case t.is("}"):
			opening := "if _ {"
			if i+1 < len(tokens) && tokens[i+1].is(")", ",", "(") {
				opening = "_ = func() {"
			}
			if cases {
				opening = "switch { case _:"
			}
			if i+1 < len(tokens) && tokens[i+1].is(")", ",") && !cases {
				opening = "func() {"
			}
			before = append(before, opening)
			cases = false
		case t.is("case", "default") && len(open) == 0:
			cases = true
		}
	}
	if cases {
		before = append(before, "switch { case _:")
		behind = "\n}"
	}
	slices.Reverse(before)
	slices.Reverse(open)
	return before, strings.Join(open, "") + behind
}

func split(text string) (lines []line) {
	for t := range strings.SplitSeq(text, "\n") {
		lines = append(lines, line{text: t})
	}
	return lines
}

// way returns a call's or a name's way, as json.NewDecoder().Decode, or "".
func way(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x := way(e.X); x != "" {
			return x + "." + e.Sel.Name
		}
	case *ast.CallExpr:
		if x := way(e.Fun); x != "" {
			return x + "()"
		}
	case *ast.ParenExpr:
		return way(e.X)
	case *ast.StarExpr:
		return way(e.X)
	case *ast.IndexExpr:
		return way(e.X)
	}
	return ""
}

// mentions reports whether a node has an identifier of that name.
func mentions(n ast.Node, ident string) bool {
	found := false
	ast.Inspect(n, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && id.Name == ident {
			found = true
		}
		return !found
	})
	return found
}

// inspect walks all functions of c, each node with those that it is in, the outermost
// first.
func (c *code) inspect(visit func(f function, n ast.Node, within []ast.Node) (hit bool)) (all []hit) {
	for _, f := range c.funcs {
		var within []ast.Node
		ast.Inspect(f.node, func(n ast.Node) bool {
			if n == nil {
				within = within[:len(within)-1]
				return true
			}
			if visit(f, n, within) {
				all = append(all, hit{line: f.at(n.Pos())})
			}
			within = append(within, n)
			return true
		})
	}
	return all
}

// lists calls visit with each list of statements.
func (c *code) lists(visit func(f function, list []ast.Stmt) []ast.Node) (all []hit) {
	for _, f := range c.funcs {
		ast.Inspect(f.node, func(n ast.Node) bool {
			var list []ast.Stmt
			switch n := n.(type) {
			case *ast.BlockStmt:
				list = n.List
			case *ast.CaseClause:
				list = n.Body
			case *ast.CommClause:
				list = n.Body
			}
			for _, found := range visit(f, list) {
				all = append(all, hit{line: f.at(found.Pos())})
			}
			return true
		})
	}
	return all
}
