package codehosttest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/validator"
	"github.com/vektah/gqlparser/v2/validator/rules"

	"nofx.dev/shared/review"
	"nofx.dev/worker/internal/reviewer"
)

//go:embed schema.graphql
var schemaText string

var schema = gqlparser.MustLoadSchema(&ast.Source{Name: "schema.graphql", Input: schemaText})

// object is a value with fields; its type is at __typename where fragments ask for it.
type object map[string]any

// serveGraphQL answers a query with exactly the fields that it asks for.
func (f *Forge) serveGraphQL(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Query     string         `json:"query"`
		Variables map[string]any `json:"variables"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	doc, errs := gqlparser.LoadQueryWithRules(schema, in.Query, rules.NewDefaultRules())
	if len(errs) > 0 {
		writeJSON(w, http.StatusOK, object{"errors": []object{{"message": errs.Error()}}})
		return
	}
	op := doc.Operations[0]
	vars, err := validator.VariableValues(schema, op, in.Variables)
	if err != nil {
		writeJSON(w, http.StatusOK, object{"errors": []object{{"message": err.Error()}}})
		return
	}
	if strings.Contains(in.Query, "reviewThreads(") {
		if no := f.do("threads", func() *Refusal { return nil }); no != nil {
			no.write(w)
			return
		}
	}
	data := object{}
	for _, sel := range op.SelectionSet {
		field := sel.(*ast.Field)
		got, no := f.resolve(field.Name, field.ArgumentMap(vars))
		if no != nil {
			if no.Status == http.StatusUnprocessableEntity || no.Status == http.StatusNotFound {
				writeJSON(w, http.StatusOK, object{"data": nil, "errors": []object{{"message": no.Message, "type": "UNPROCESSABLE"}}})
				return
			}
			no.write(w)
			return
		}
		data[field.Alias] = project(got, field.SelectionSet, vars)
	}
	writeJSON(w, http.StatusOK, object{"data": data})
}

// project returns what a selection asks for of a value.
func project(v any, set ast.SelectionSet, vars map[string]any) any {
	switch v := v.(type) {
	case []object:
		all := make([]any, len(v))
		for i, o := range v {
			all[i] = project(o, set, vars)
		}
		return all
	case object:
		if v == nil {
			return nil
		}
		out := object{}
		v.fill(out, set, vars)
		return out
	}
	return v
}

func (o object) fill(out object, set ast.SelectionSet, vars map[string]any) {
	for _, sel := range set {
		switch sel := sel.(type) {
		case *ast.Field:
			value := o[sel.Name]
			if f, ok := value.(func(map[string]any) any); ok {
				value = f(sel.ArgumentMap(vars))
			}
			out[sel.Alias] = project(value, sel.SelectionSet, vars)
		case *ast.InlineFragment:
			if sel.TypeCondition == o["__typename"] {
				o.fill(out, sel.SelectionSet, vars)
			}
		}
	}
}

// resolve runs a field of the query or the mutation.
func (f *Forge) resolve(field string, args map[string]any) (got any, no *Refusal) {
	input, _ := args["input"].(map[string]any)
	id := func(name string) int {
		_, n, _ := strings.Cut(fmt.Sprint(input[name]), "_")
		v, _ := strconv.Atoi(n)
		return v
	}
	text := func(name string) string { s, _ := input[name].(string); return s }
	reviewOf := func(r *reviewed) object {
		return object{"pullRequestReview": object{"id": fmt.Sprintf("PRR_%d", r.id)}}
	}
	switch field {
	case "viewer":
		return object{"id": "U_" + Me, "login": Me}, f.do("viewer", func() *Refusal { return nil })
	case "repository":
		if fmt.Sprintf("%v/%v", args["owner"], args["name"]) != Repository {
			return nil, refuse(404, "Could not resolve to a Repository with the name '%v/%v'.", args["owner"], args["name"])
		}
		return object{"pullRequest": f.pullRequest}, nil
	case "addPullRequestReview":
		no = f.do("create", func() *Refusal {
			if input["event"] != nil {
				return refuse(422, "a review with an event is not expected here")
			}
			r, no := f.create(Me, text("commitOID"))
			if no == nil {
				got = reviewOf(r)
			}
			return no
		})
	case "submitPullRequestReview":
		no = f.do("submit", func() *Refusal {
			r := f.review(id("pullRequestReviewId"))
			no := f.submit(r, text("event"), text("body"))
			if no == nil {
				got = reviewOf(r)
			}
			return no
		})
	case "deletePullRequestReview":
		no = f.do("delete", func() *Refusal {
			r := f.review(id("pullRequestReviewId"))
			no := f.discard(r)
			if no == nil {
				got = reviewOf(r)
			}
			return no
		})
	case "addPullRequestReviewThread":
		no = f.do("add", func() *Refusal {
			r := f.review(id("pullRequestReviewId"))
			if r == nil || r.state != "PENDING" {
				return refuse(422, "The review is not in the pending state")
			}
			c := reviewer.Comment{Path: text("path"), Body: text("body"), Side: review.Side(text("side")), Line: number(input["line"]), StartLine: number(input["startLine"])}
			got = object{"thread": object(nil)}
			if t := f.add(r, c, text("startSide")); t != nil {
				got = object{"thread": object{"id": t.id}}
			}
			return nil
		})
	case "resolveReviewThread":
		no = f.do("resolve", func() *Refusal {
			for _, t := range f.threads {
				if t.id == text("threadId") {
					t.resolved = true
					got = object{"thread": object{"id": t.id, "isResolved": true}}
					return nil
				}
			}
			return refuse(404, "Could not resolve to a node with the global id of '%s'", text("threadId"))
		})
	}
	return got, no
}

func number(v any) int {
	n, _ := strconv.Atoi(fmt.Sprint(v))
	return n
}

// pullRequest returns the pull request as the GraphQL API has it, or null if the number is
// another one.
func (f *Forge) pullRequest(args map[string]any) any {
	if number(args["number"]) != Number {
		return object(nil)
	}
	return object{
		"id": "PR_7",
		"reviews": func(args map[string]any) any {
			f.mu.Lock()
			defer f.mu.Unlock()
			nodes := []object{}
			for _, r := range f.reviews {
				if r.state == "PENDING" && r.author != Me || args["states"] != nil && !strings.Contains(fmt.Sprint(args["states"]), r.state) {
					continue
				}
				nodes = append(nodes, object{"id": fmt.Sprintf("PRR_%d", r.id), "state": r.state, "url": f.url("#pullrequestreview-%d", r.id), "author": object{"__typename": "User", "id": "U_" + r.author, "login": r.author}})
			}
			return object{"nodes": nodes, "pageInfo": object{"hasNextPage": false, "endCursor": ""}}
		},
		"reviewThreads": func(args map[string]any) any {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.threadPage(number(args["first"]), fmt.Sprint(args["after"]))
		},
	}
}

// threadPage returns a page of the threads that our account sees.
func (f *Forge) threadPage(first int, after string) object {
	const created = "2026-01-02T03:04:05Z"
	start, _ := strconv.Atoi(after)
	end := min(start+first, len(f.threads))
	nodes := []object{}
	for _, t := range f.threads[start:end] {
		comments := []object{}
		for _, c := range t.comments {
			o := object{
				"id": fmt.Sprintf("PRRC_%d", c.id), "body": c.body, "path": t.path, "author": object{"login": c.author},
				"createdAt": created, "updatedAt": created, "url": f.url("#discussion_r%d", c.id),
				"line": nil, "originalLine": nil, "startLine": nil, "originalStartLine": nil,
			}
			if t.line > 0 {
				o["originalLine"] = t.line
				if !t.outdated {
					o["line"] = t.line
				}
			}
			if t.start > 0 {
				o["startLine"], o["originalStartLine"] = t.start, t.start
			}
			comments = append(comments, o)
		}
		nodes = append(nodes, object{
			"id": t.id, "isResolved": t.resolved, "isOutdated": t.outdated, "isCollapsed": t.resolved,
			"comments": object{"nodes": comments, "totalCount": len(comments)},
		})
	}
	return object{
		"nodes": nodes, "totalCount": len(f.threads),
		"pageInfo": object{"hasNextPage": end < len(f.threads), "hasPreviousPage": start > 0, "startCursor": strconv.Itoa(start), "endCursor": strconv.Itoa(end)},
	}
}
