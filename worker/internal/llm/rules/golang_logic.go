package rules

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// pure are functions that do nothing but return something.
var pure = []string{"errors.New", "fmt.Errorf", "fmt.Sprintf", "fmt.Sprint", "fmt.Sprintln", "errors.Wrap", "errors.Wrapf", "errors.Errorf", "errors.WithStack", "errors.WithMessage", "slices.Clone", "slices.Sorted", "maps.Clone",
	"strings.TrimSpace", "strings.Replace", "strings.ReplaceAll", "strings.ToLower", "strings.ToUpper", "strings.Trim", "strings.TrimPrefix", "strings.TrimSuffix", "strings.Split", "strings.Join",
	"bytes.TrimSpace", "path.Join", "filepath.Join", "filepath.Clean", "path.Clean", "sort.Reverse", "context.WithValue", "append"}

func goUnused(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, _ []ast.Node) bool {
		call := c.statement(f, n)
		return call != nil && slices.Contains(pure, way(call.Fun))
	})
}

func goLostCancel(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, _ []ast.Node) bool {
		s, ok := n.(*ast.AssignStmt)
		if !ok || c.test {
			return false
		}
		names, call := results(s)
		if call == nil || len(names) != 2 || names[1] != "_" || mentions(f.node, "WithCancelCause") { // whose cancel ends this one too
			return false
		}
		switch way(call.Fun) {
		case "context.WithCancel", "context.WithTimeout", "context.WithDeadline", "context.WithCancelCause", "context.WithTimeoutCause":
			return true
		}
		return false
	})
}

func goUnit(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return false
		}
		i := 0
		switch way(call.Fun) {
		case "time.Sleep", "time.After", "time.NewTimer", "time.NewTicker", "time.Tick", "time.AfterFunc":
		case "context.WithTimeout":
			i = 1
		default:
			return false
		}
		if len(call.Args) <= i {
			return false
		}
		lit, ok := call.Args[i].(*ast.BasicLit)
		if !ok || lit.Kind != token.INT {
			return false
		}
		v, err := strconv.ParseUint(lit.Value, 0, 64)
		return err == nil && v > 1 && v < 100_000
	})
}

func goNilCheck(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		b, ok := n.(*ast.BinaryExpr)
		if !ok || b.Op != token.LAND && b.Op != token.LOR {
			return false
		}
		left, ok := b.X.(*ast.BinaryExpr)
		if !ok || way(left.Y) != "nil" || b.Op == token.LAND && left.Op != token.EQL || b.Op == token.LOR && left.Op != token.NEQ {
			return false
		}
		x := way(left.X)
		if x == "" || strings.Contains(x, "()") {
			return false
		}
		used := false
		ast.Inspect(b.Y, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BinaryExpr: // x == nil && (x != nil && x.f) is well
				if n.Op == token.NEQ && way(n.X) == x {
					return false
				}
			case *ast.CallExpr: // a method may take nil, a field cannot
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && way(s.X) == x {
					used = used || strings.Contains(strings.ToLower(x), "err") && s.Sel.Name == "Error"
					return false
				}
			case *ast.SelectorExpr:
				if way(n.X) == x {
					used = true
				}
			}
			return !used
		})
		return used
	})
}

func goNilError(c *code) []hit {
	return c.inspect(func(f function, n ast.Node, within []ast.Node) bool {
		ret, ok := n.(*ast.ReturnStmt)
		if !ok || len(ret.Results) == 0 || len(within) < 2 {
			return false
		}
		failed := way(ret.Results[len(ret.Results)-1])
		block, ok := within[len(within)-1].(*ast.BlockStmt)
		if !ok || failed == "" || len(block.List) != 1 || !strings.HasPrefix(strings.ToLower(failed), "err") {
			return false
		}
		cond, ok := within[len(within)-2].(*ast.IfStmt)
		if !ok || cond.Body != block || len(ret.Results) < 2 {
			return false
		}
		b, ok := cond.Cond.(*ast.BinaryExpr)
		if !ok || b.Op != token.EQL || way(b.X) != failed || way(b.Y) != "nil" {
			return false
		}
		for _, r := range ret.Results[:len(ret.Results)-1] { // a result beside it says that it is meant
			if w := way(r); w != "nil" && w != "false" && text(r) == "" {
				return false
			}
		}
		return way(ret.Results[0]) == "nil"
	})
}

func goLostError(c *code) []hit {
	return c.lists(func(f function, list []ast.Stmt) (all []ast.Node) {
		for i := 0; i+1 < len(list); i++ {
			names, call := results(list[i])
			if call == nil {
				continue
			}
			failed := names[len(names)-1]
			if failed != "err" && failed != "e" && !strings.HasSuffix(failed, "Err") {
				continue
			}
			next, ok := list[i+1].(*ast.AssignStmt)
			if !ok {
				if check, isIf := list[i+1].(*ast.IfStmt); isIf && check.Init != nil {
					continue
				}
				continue
			}
			again, nextCall := results(next)
			if nextCall == nil || again[len(again)-1] != failed || mentions(nextCall, failed) {
				continue
			}
			if way(call.Fun) == "errors.Join" || strings.Contains(way(nextCall.Fun), "errors.") {
				continue
			}
			all = append(all, list[i])
		}
		return all
	})
}

// sentinels are errors that functions of the standard library return with context.
var sentinels = []string{"context.Canceled", "context.DeadlineExceeded", "redis.Nil"}

// bare are packages whose errors come without context.
var bare = []string{"io", "bufio", "http", "flag", "zip", "tar", "zlib", "gzip", "bytes", "hex", "base64", "strconv", "unix", "syscall", "windows", "exec", "driver"}

func goSentinel(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, _ []ast.Node) bool {
		b, ok := n.(*ast.BinaryExpr)
		if !ok || b.Op != token.EQL && b.Op != token.NEQ || !isError(way(b.X)) || c.test {
			return false
		}
		known := way(b.Y)
		pkg, ident, ok := strings.Cut(known, ".")
		return slices.Contains(sentinels, known) || ok && len(ident) > 3 && strings.HasPrefix(ident, "Err") && strings.ToUpper(ident[3:4]) == ident[3:4] && strings.ToLower(pkg) == pkg && !slices.Contains(bare, pkg)
	})
}

func goMissingReturn(c *code) []hit {
	var all []hit
	for _, f := range c.funcs {
		if f.decl == nil || f.decl.Body == nil {
			continue
		}
		ast.Inspect(f.decl.Body, func(n ast.Node) bool {
			block, ok := n.(*ast.BlockStmt)
			if !ok {
				return true
			}
			for i, s := range block.List {
				cond, ok := s.(*ast.IfStmt)
				if !ok || cond.Else != nil || i+1 == len(block.List) || len(cond.Body.List) == 0 {
					continue
				}
				last, ok := cond.Body.List[len(cond.Body.List)-1].(*ast.ExprStmt)
				if !ok {
					continue
				}
				call, ok := last.X.(*ast.CallExpr)
				if !ok || way(call.Fun) != "http.Error" || len(call.Args) == 0 {
					continue
				}
				again := func(s ast.Stmt) bool { return mentions(s, way(call.Args[0])) } // it is written to
				if slices.ContainsFunc(block.List[i+1:], again) {
					all = append(all, hit{line: f.at(last.Pos())})
				}
			}
			return true
		})
	}
	return all
}

func goNilMap(c *code) []hit {
	return c.lists(func(f function, list []ast.Stmt) (all []ast.Node) {
		for i, s := range list {
			d, ok := s.(*ast.DeclStmt)
			if !ok {
				continue
			}
			gen, ok := d.Decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR || len(gen.Specs) != 1 {
				continue
			}
			spec, ok := gen.Specs[0].(*ast.ValueSpec)
			if !ok || len(spec.Names) != 1 || len(spec.Values) > 0 {
				continue
			}
			if _, isMap := spec.Type.(*ast.MapType); !isMap {
				continue
			}
			for _, next := range list[i+1:] {
				first := firstUse(next, spec.Names[0].Name)
				if first == nil {
					continue
				}
				if a, ok := first.(*ast.AssignStmt); ok {
					if index, ok := a.Lhs[0].(*ast.IndexExpr); ok && way(index.X) == spec.Names[0].Name {
						all = append(all, a)
					}
				}
				break
			}
		}
		return all
	})
}

// firstUse returns the first statement in s that uses a variable, its own parts first.
func firstUse(s ast.Stmt, variable string) (found ast.Stmt) {
	ast.Inspect(s, func(n ast.Node) bool {
		if found != nil {
			return false
		}
		switch n := n.(type) {
		case *ast.AssignStmt, *ast.ExprStmt, *ast.ReturnStmt, *ast.IncDecStmt, *ast.SendStmt, *ast.DeferStmt, *ast.GoStmt:
			if mentions(n, variable) {
				found = n.(ast.Stmt)
			}
			return false
		case ast.Expr:
			if mentions(n, variable) {
				found = s
			}
			return false
		}
		return true
	})
	return found
}

func goWaitGroup(c *code) []hit {
	return c.lists(func(f function, list []ast.Stmt) (all []ast.Node) {
		for _, s := range list {
			g, ok := s.(*ast.GoStmt)
			if !ok {
				continue
			}
			lit, ok := g.Call.Fun.(*ast.FuncLit)
			if !ok || len(lit.Body.List) == 0 {
				continue
			}
			first, ok := lit.Body.List[0].(*ast.ExprStmt)
			if !ok {
				continue
			}
			if call, ok := first.X.(*ast.CallExpr); ok && strings.HasSuffix(strings.ToLower(way(call.Fun)), "wg.add") {
				all = append(all, first)
			}
		}
		return all
	})
}

func goDoubleLock(c *code) []hit {
	return c.lists(func(f function, list []ast.Stmt) (all []ast.Node) {
		for i := 0; i+1 < len(list); i++ {
			s, ok := list[i].(*ast.ExprStmt)
			d, deferred := list[i+1].(*ast.DeferStmt)
			if !ok || !deferred {
				continue
			}
			call, ok := s.X.(*ast.CallExpr)
			if !ok {
				continue
			}
			if w := way(call.Fun); w == way(d.Call.Fun) && (strings.HasSuffix(w, ".Lock") || strings.HasSuffix(w, ".RLock")) && len(call.Args) == 0 {
				all = append(all, d)
			}
		}
		return all
	})
}

func goFatal(c *code) []hit {
	return c.inspect(func(_ function, n ast.Node, within []ast.Node) bool {
		s, ok := n.(*ast.ExprStmt)
		if !ok || !strings.HasSuffix(c.path, "_test.go") {
			return false
		}
		call, ok := s.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		switch way(call.Fun) {
		case "t.Fatal", "t.Fatalf", "t.FailNow", "b.Fatal", "b.Fatalf":
		default:
			return false
		}
		for i := len(within) - 1; i >= 2; i-- {
			lit, ok := within[i].(*ast.FuncLit)
			if !ok {
				continue
			}
			for _, p := range lit.Type.Params.List {
				if strings.HasPrefix(way(p.Type), "testing.") {
					return false
				}
			}
			_, started := within[i-2].(*ast.GoStmt)
			return started
		}
		return false
	})
}
