package rules

import (
	"path"
	"slices"
	"strings"

	"nofx.dev/shared/review"
)

var sql = language{
	syntax: syntax{comment: []string{"--"}, block: true, plain: `'"`, fold: true, dollar: true},
	rules: []rule{
		{"sql/not-null-without-default", "A column without a default is added as NOT NULL",
			"The statement fails on a table with rows. Add a DEFAULT, or add the column, fill it, and then set NOT NULL.",
			review.Correctness, review.High, 0.9, sqlNotNull},
		{"sql/no-where", "The statement has no WHERE",
			"It deletes or overwrites every row of the table. Add a WHERE, or use TRUNCATE if that is intended.",
			review.Correctness, review.High, 0.8, sqlNoWhere},
		{"sql/drop-column", "Dropping a column loses its data and breaks running code that reads it",
			"While old and new code run side by side, the old code fails, and the data cannot be restored. Stop using the column in one release and drop it in the next.",
			review.API, review.Medium, 0.8, sqlDropColumn},
		{"sql/drop-table", "Dropping a table loses its data",
			"Running code that reads the table fails at once, and the data cannot be restored. Stop using the table in one release and drop it in the next.",
			review.API, review.Medium, 0.75, sqlDropTable},
		{"sql/grant-public", "All privileges are granted to PUBLIC",
			"PUBLIC includes every role, also future ones. Grant the necessary privileges to the role that needs them.",
			review.Security, review.High, 0.9, sqlGrant},
		{"sql/null-compare", "A comparison with NULL is never true",
			"= and <> with NULL return NULL, so the condition is never true. Use IS NULL or IS NOT NULL.",
			review.Correctness, review.High, 0.9, sqlNull},
		{"sql/definer-search-path", "A SECURITY DEFINER function does not set search_path",
			"Names are resolved in the caller's search_path, so a caller can substitute tables or functions that then run with the owner's privileges. Add SET search_path.",
			review.Security, review.High, 0.85, sqlDefiner},
		{"sql/dynamic", "A dynamic statement is built by inserting a value",
			"A user who controls the value can change the statement. Pass it with USING, or write names with quote_ident or format('%I').",
			review.Security, review.High, 0.8, sqlDynamic},
	},
}

// statements returns the statements of a hunk of which it has the beginning, and whether
// each has an end.
func statements(c *code) (all [][]lexeme, ended []bool) {
	from := 0
	for i, t := range c.tokens {
		if t.is(";") {
			all, ended = append(all, c.tokens[from:i]), append(ended, true)
			from = i + 1
		}
	}
	if from < len(c.tokens) {
		all, ended = append(all, c.tokens[from:]), append(ended, false)
	}
	return all, ended
}

// find returns where the words stand in a statement, one after the other, from on, or -1.
func find(s []lexeme, from int, words ...string) int {
	for i := from; i+len(words) <= len(s); i++ {
		if slices.EqualFunc(s[i:i+len(words)], words, func(t lexeme, w string) bool { return t.is(w) }) {
			return i
		}
	}
	return -1
}

// object returns the name that stands at i, without IF EXISTS and the like.
func object(s []lexeme, i int) string {
	for i < len(s) && s[i].is("if", "not", "exists", "only") {
		i++
	}
	of := ""
	for i < len(s) && (s[i].kind == name || s[i].kind == literal || s[i].is(".")) {
		of += strings.ToLower(s[i].text)
		if i+1 < len(s) && !s[i+1].is(".") && !s[i].is(".") {
			break
		}
		i++
	}
	return of
}

// made returns the tables that a hunk creates.
func made(all [][]lexeme) map[string]bool {
	tables := map[string]bool{}
	for _, s := range all {
		if i := find(s, 0, "table"); i > 0 && s[0].is("create") {
			tables[object(s, i+1)] = true
		}
	}
	return tables
}

// changed returns the tables that a hunk adds columns to, and the names that it gives to
// tables.
func changed(all [][]lexeme) (grown, renamed map[string]bool) {
	grown, renamed = map[string]bool{}, map[string]bool{}
	for _, s := range all {
		if at := find(s, 0, "alter", "table"); at >= 0 {
			if find(s, at, "add") > 0 {
				grown[object(s, at+2)] = true
			}
			if to := find(s, at, "rename", "to"); to > 0 {
				renamed[object(s, to+2)] = true
			}
		}
	}
	return grown, renamed
}

// temporary reports whether a name says that what has it is not there to stay.
func temporary(name string) bool {
	return strings.Contains(name, "tmp") || strings.Contains(name, "temp")
}

// down reports whether a file takes a migration back.
func (c *code) down() bool {
	base := strings.ToLower(path.Base(c.path))
	return strings.Contains(base, "down") || strings.Contains(base, "rollback") || strings.Contains(base, "revert") || strings.Contains(base, "drop")
}

func sqlNotNull(c *code) (found []hit) {
	all, _ := statements(c)
	tables := made(all)
	for _, s := range all {
		at := find(s, 0, "alter", "table")
		if at < 0 || tables[object(s, at+2)] {
			continue
		}
		for i := at; i < len(s); i++ {
			if !s[i].is("add") || i+1 >= len(s) || s[i+1].is("constraint", "primary", "foreign", "unique", "check", "index", "key", "exclude", "partition", "fulltext") {
				continue
			}
			end, depth := i, 0
			for end < len(s) && (depth > 0 || !s[end].is(",")) {
				if s[end].is("(") {
					depth++
				} else if s[end].is(")") {
					depth--
				}
				end++
			}
			part := s[i:end]
			null := find(part, 0, "not", "null")
			if null > 0 && find(part, 0, "default") < 0 && find(part, 0, "generated") < 0 && find(part, 0, "identity") < 0 && find(part, 0, "auto_increment") < 0 && !slices.ContainsFunc(part, func(t lexeme) bool { return t.is("serial", "bigserial") }) {
				found = append(found, hit{line: part[null].line})
			}
			i = end - 1
		}
	}
	return found
}

func sqlNoWhere(c *code) (found []hit) {
	all, ended := statements(c)
	grown, _ := changed(all)
	for k, s := range all {
		if !ended[k] || c.test || len(s) < 3 || c.down() {
			continue
		}
		i := 0
		if s[0].is("begin", "then", "else", "loop") {
			i = 1
		}
		if slices.ContainsFunc(s, func(t lexeme) bool {
			return t.is("where", "using", "join", "returns", "function", "trigger", "rule", "current", "limit", "with")
		}) {
			continue
		}
		switch {
		case find(s, i, "delete", "from") == i && len(s) <= i+5:
			found = append(found, hit{line: s[i].line})
		case s[i].is("update") && find(s, i, "set") > i && find(s, i, "set") <= i+4 && !grown[object(s, i+1)]: // which may fill the new column
			found = append(found, hit{line: s[i].line})
		}
	}
	return found
}

func sqlDropColumn(c *code) (found []hit) {
	all, _ := statements(c)
	for _, s := range all {
		if at := find(s, 0, "alter", "table"); at >= 0 && !c.down() {
			for i := find(s, at, "drop", "column"); i >= 0; i = find(s, i+1, "drop", "column") {
				if !temporary(object(s, i+2)) {
					found = append(found, hit{line: s[i].line})
				}
			}
		}
	}
	return found
}

func sqlDropTable(c *code) (found []hit) {
	all, _ := statements(c)
	tables := made(all)
	_, renamed := changed(all)
	for _, s := range all {
		if i := find(s, 0, "drop", "table"); i == 0 && !c.down() {
			if name := object(s, 2); !tables[name] && !renamed[name] && !temporary(name) {
				found = append(found, hit{line: s[i].line})
			}
		}
	}
	return found
}

func sqlGrant(c *code) (found []hit) {
	all, _ := statements(c)
	for _, s := range all {
		if i := find(s, 0, "grant", "all"); i >= 0 && find(s, i, "to", "public") > 0 {
			found = append(found, hit{line: s[i].line})
		}
	}
	return found
}

func sqlNull(c *code) (found []hit) {
	all, _ := statements(c)
	for _, s := range all {
		condition := false
		for i, t := range s {
			switch {
			case t.is("where", "and", "or", "on", "when", "if", "having", "not", "elsif"):
				condition = true
			case t.is("set", "then", "select", "values", "default", "do"):
				condition = false
			case condition && t.is("=", "<>", "!=") && i+1 < len(s) && s[i+1].is("null"):
				found = append(found, hit{line: t.line})
			}
		}
	}
	return found
}

func sqlDefiner(c *code) (found []hit) {
	from := 0
	for i := range c.tokens {
		if find(c.tokens[i:min(len(c.tokens), i+1)], 0, "create") == 0 {
			from = i
		}
		if find(c.tokens[i:min(len(c.tokens), i+2)], 0, "security", "definer") != 0 {
			continue
		}
		if find(c.tokens[from:i], 0, "function") < 0 && find(c.tokens[from:i], 0, "procedure") < 0 {
			continue
		}
		end := len(c.tokens)
		if next := find(c.tokens, i, "create"); next > 0 {
			end = next
		}
		if find(c.tokens[from:end], 0, "search_path") < 0 && find(c.tokens[i:end], 0, ";") >= 0 {
			found = append(found, hit{line: c.tokens[i].line})
		}
	}
	return found
}

func sqlDynamic(c *code) (found []hit) {
	all, _ := statements(c)
	for _, s := range all {
		at := find(s, 0, "execute")
		if at < 0 || at+1 >= len(s) || s[at+1].kind != literal || !isSQL(s[at+1].text) {
			continue
		}
		for i := at + 2; i+1 < len(s); i++ {
			if next := s[i+1]; s[i].is("||") && next.kind == name && !next.is("quote_ident", "quote_literal", "quote_nullable", "format") && !strings.HasPrefix(next.text, "tg_") {
				found = append(found, hit{line: s[at].line})
				break
			}
		}
	}
	return found
}

// isSQL reports whether a text is the beginning of a statement.
func isSQL(s string) bool {
	words := strings.Fields(strings.ToLower(s))
	if len(words) < 2 {
		return false
	}
	rest := strings.Join(words, " ")
	switch words[0] {
	case "select":
		return strings.Contains(rest, " from ")
	case "insert", "replace":
		return words[1] == "into"
	case "delete":
		return words[1] == "from"
	case "update":
		return strings.Contains(rest, " set ")
	}
	return false
}

// isValue reports whether a value, not a name, comes next in a statement.
func isValue(before string) bool {
	before = strings.ToLower(strings.TrimRight(before, " \t\n"))
	quoted := strings.HasSuffix(before, "'") || strings.HasSuffix(before, "'%")
	for _, end := range []string{"=", "<", ">", " like", " values ("} {
		quoted = quoted || strings.HasSuffix(before, end)
	}
	return quoted
}
