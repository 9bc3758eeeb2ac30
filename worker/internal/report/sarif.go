package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// levels of SARIF (§3.27.10); a failing result without one is a warning.
var levels = []string{"error", "warning", "note", "none"}

// sarifLog is the part of SARIF 2.1.0 that says what was found.
type sarifLog struct {
	Version string         `json:"version"`
	Runs    list[sarifRun] `json:"runs"`
}

type sarifRun struct {
	Tool struct {
		Driver     sarifComponent       `json:"driver"`
		Extensions list[sarifComponent] `json:"extensions"`
	} `json:"tool"`
	Results     list[sarifResult]     `json:"results"`
	Invocations list[sarifInvocation] `json:"invocations"`
}

type sarifInvocation struct {
	Successful *bool `json:"executionSuccessful"`
}

type sarifSuppression struct {
	Status string `json:"status"`
}

type sarifComponent struct {
	Name  string          `json:"name"`
	Rules list[sarifRule] `json:"rules"`
}

type sarifRule struct {
	ID            string `json:"id"`
	Configuration struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

type sarifResult struct {
	RuleID string `json:"ruleId"`
	Rule   struct {
		ID string `json:"id"`
	} `json:"rule"`
	RuleIndex *int   `json:"ruleIndex"`
	Kind      string `json:"kind"`
	Level     string `json:"level"`
	Baseline  string `json:"baselineState"`
	Message   struct {
		Text string `json:"text"`
	} `json:"message"`
	Suppressions list[sarifSuppression] `json:"suppressions"`
	Locations    first[struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}] `json:"locations"`
}

// maxElements bounds the elements of all arrays of a SARIF log that are kept. An
// empty object of three bytes is a hundred times as large in memory.
const maxElements = 50_000

// list is an array. It is nil where there is none.
type list[T any] []T

// counted reads lists of one type, whose elements are taken from left.
func counted[T any](left *int) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(dec *jsontext.Decoder, l *list[T]) error {
		return elements(dec, func(int) error {
			if *left--; *left < 0 {
				return errTooMany
			}
			var v T
			if err := json.UnmarshalDecode(dec, &v); err != nil {
				return err
			}
			*l = append(*l, v)
			return nil
		}, func() { *l = list[T]{} })
	})
}

var errTooMany = fmt.Errorf("its arrays have more than %d elements", maxElements)

// first is the first element of an array, or none.
type first[T any] []T

func (f *first[T]) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return elements(dec, func(n int) error {
		if n > 0 {
			return dec.SkipValue()
		}
		*f = make(first[T], 1)
		return json.UnmarshalDecode(dec, &(*f)[0])
	}, func() {})
}

// elements reads an array, or null.
func elements(dec *jsontext.Decoder, element func(n int) error, begin func()) error {
	token, err := dec.ReadToken()
	if err != nil || token.Kind() == 'n' {
		return err
	}
	if token.Kind() != '[' {
		return errNoArray
	}
	begin()
	for n := 0; dec.PeekKind() != ']'; n++ {
		if err := element(n); err != nil {
			return err
		}
	}
	_, err = dec.ReadToken()
	return err
}

var errNoArray = errors.New("an array is expected")

// sarif counts the results that are findings: not what passed or only informs, what
// was suppressed, or what is gone since a baseline. A run without results, or whose
// tool says that it did not get through, is an error: it found nothing because it
// looked at nothing.
func (rep *reading) sarif(r io.Reader) error {
	var log sarifLog
	left := maxElements
	lists := json.JoinUnmarshalers(counted[sarifRun](&left), counted[sarifComponent](&left), counted[sarifRule](&left),
		counted[sarifResult](&left), counted[sarifSuppression](&left), counted[sarifInvocation](&left))
	if err := json.UnmarshalRead(r, &log, json.WithUnmarshalers(lists)); err != nil {
		return malformed("SARIF", plain(err))
	}
	if log.Version != "2.1.0" {
		return fmt.Errorf("SARIF of version %q; 2.1.0 is read", log.Version)
	}
	if len(log.Runs) == 0 {
		return errors.New("SARIF without runs")
	}
	rep.Findings = map[string]int{}
	for _, level := range levels {
		rep.Findings[level] = 0
	}
	for i, run := range log.Runs {
		if run.Tool.Driver.Name == "" {
			return fmt.Errorf("run %d of the SARIF does not name its tool", i)
		}
		if run.Results == nil {
			return fmt.Errorf("run %d of the SARIF has no results, not even none", i)
		}
		for _, in := range run.Invocations {
			if in.Successful != nil && !*in.Successful {
				return fmt.Errorf("run %d of the SARIF says that its tool did not get through", i)
			}
		}
		defaults := map[string]string{}
		for _, c := range append(run.Tool.Extensions, run.Tool.Driver) {
			for _, rule := range c.Rules {
				defaults[rule.ID] = rule.Configuration.Level
			}
		}
		for _, res := range run.Results {
			rule := cmp.Or(res.RuleID, res.Rule.ID)
			if rules := run.Tool.Driver.Rules; rule == "" && res.RuleIndex != nil && *res.RuleIndex >= 0 && *res.RuleIndex < len(rules) {
				rule = rules[*res.RuleIndex].ID
			}
			level := cmp.Or(res.Level, defaults[rule], "warning")
			if !slices.Contains(levels, level) {
				return fmt.Errorf("level %q of a result is none of SARIF's", level)
			}
			if res.counts() {
				rep.finding(res, rule, level)
			}
		}
	}
	// Those of level error are what a gate fails for, so they come first.
	slices.SortStableFunc(rep.Items, func(a, b Item) int {
		return slices.Index(levels, a.Level) - slices.Index(levels, b.Level)
	})
	return nil
}

// counts reports whether r is a finding.
func (r sarifResult) counts() bool {
	if r.Kind != "" && r.Kind != "fail" || r.Baseline == "absent" {
		return false
	}
	// Suppressed is what has suppressions and none that is rejected or under review.
	suppressed := len(r.Suppressions) > 0
	for _, s := range r.Suppressions {
		suppressed = suppressed && (s.Status == "" || s.Status == "accepted")
	}
	return !suppressed
}

func (rep *reading) finding(r sarifResult, rule, level string) {
	rep.Findings[level]++
	item := Item{Rule: rule, Level: level, Message: r.Message.Text}
	if len(r.Locations) > 0 {
		at := r.Locations[0].Physical
		item.Line = at.Region.StartLine
		item.File = strings.TrimPrefix(at.Artifact.URI, "file://")
		if name, err := url.PathUnescape(item.File); err == nil {
			item.File = name
		}
	}
	if level != "error" {
		rep.add(item)
		return
	}
	rep.Failures++
	// One that a gate fails for takes the place of one that it does not.
	if i := slices.IndexFunc(rep.Items, func(i Item) bool { return i.Level != "error" }); len(rep.Items) == MaxItems && i >= 0 {
		rep.Items = slices.Delete(rep.Items, i, i+1)
		rep.More++
	}
	rep.add(item)
}

// plain is a decoding error without the value that it is about.
func plain(err error) error {
	for _, known := range []error{errTooMany, errNoArray} {
		if errors.Is(err, known) {
			return known
		}
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		return fmt.Errorf("another type is expected at %s", semantic.JSONPointer)
	}
	return err
}
