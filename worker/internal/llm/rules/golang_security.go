package rules

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

func goShell(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || c.test {
			return false
		}
		args := call.Args
		switch way(call.Fun) {
		case "exec.Command":
		case "exec.CommandContext":
			if len(args) > 0 {
				args = args[1:]
			}
		default:
			return false
		}
		if len(args) < 3 || !slices.Contains([]string{"sh", "bash", "/bin/sh", "/bin/bash", "zsh", "cmd", "cmd.exe", "powershell"}, text(args[0])) {
			return false
		}
		switch flag := text(args[1]); flag {
		case "-c", "-lc", "-ec", "-xc", "/c", "/C", "-Command":
		default:
			return false
		}
		switch e := args[2].(type) {
		case *ast.BinaryExpr:
			return variable(e)
		case *ast.CallExpr:
			return way(e.Fun) == "fmt.Sprintf" && len(e.Args) > 1 && slices.ContainsFunc(e.Args[1:], variable)
		}
		return false
	})
}

// text returns what a literal string has, or "".
func text(e ast.Expr) string {
	if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		s, _ := strconv.Unquote(lit.Value)
		return s
	}
	return ""
}

func goSQL(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, within []ast.Node) bool {
		if c.test {
			return false
		}
		switch n := n.(type) {
		case *ast.CallExpr:
			if w := way(n.Fun); w != "fmt.Sprintf" || len(n.Args) < 2 || !isSQL(text(n.Args[0])) {
				return false
			}
			format, used := text(n.Args[0]), 1
			for i := 0; i < len(format); i++ {
				if format[i] != '%' {
					continue
				}
				if i+1 < len(format) && format[i+1] == '%' {
					i++
					continue
				}
				if used < len(n.Args) && i+1 < len(format) && (format[i+1] == 's' || format[i+1] == 'v') && isValue(format[:i]) && variable(n.Args[used]) {
					return true
				}
				used++
			}
		case *ast.BinaryExpr:
			if len(within) > 0 {
				if _, inner := within[len(within)-1].(*ast.BinaryExpr); inner {
					return false
				}
			}
			parts := sum(n)
			if len(parts) < 2 || !isSQL(text(parts[0])) {
				return false
			}
			for i := 1; i < len(parts); i++ {
				if before := text(parts[i-1]); before != "" && isValue(before) && text(parts[i]) == "" && variable(parts[i]) {
					return true
				}
			}
		}
		return false
	})
}

// sum returns the parts of a + b + c.
func sum(e ast.Expr) []ast.Expr {
	if b, ok := e.(*ast.BinaryExpr); ok && b.Op == token.ADD {
		return append(sum(b.X), sum(b.Y)...)
	}
	return []ast.Expr{e}
}

func goTLS(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		switch n := n.(type) {
		case *ast.KeyValueExpr:
			return !c.test && way(n.Key) == "InsecureSkipVerify" && way(n.Value) == "true"
		case *ast.AssignStmt:
			return !c.test && len(n.Lhs) == 1 && strings.HasSuffix(way(n.Lhs[0]), ".InsecureSkipVerify") && way(n.Rhs[0]) == "true"
		}
		return false
	})
}

func goWritable(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || c.test || len(call.Args) < 2 {
			return false
		}
		switch way(call.Fun) {
		case "os.MkdirAll", "os.Mkdir", "os.Chmod", "os.WriteFile", "ioutil.WriteFile", "os.OpenFile":
		default:
			return false
		}
		lit, ok := call.Args[len(call.Args)-1].(*ast.BasicLit)
		if !ok || lit.Kind != token.INT {
			return false
		}
		mode, err := strconv.ParseUint(lit.Value, 0, 32)
		return err == nil && mode&0o002 != 0 && mode&0o1000 == 0
	})
}
