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
	Artifacts   list[sarifArtifact]   `json:"artifacts"`
}

type sarifInvocation struct {
	Successful *bool               `json:"executionSuccessful"`
	Overrides  list[sarifOverride] `json:"ruleConfigurationOverrides"`
}

// sarifOverride is what an invocation had another configuration for.
type sarifOverride struct {
	Descriptor    sarifReference     `json:"descriptor"`
	Configuration sarifConfiguration `json:"configuration"`
}

type sarifSuppression struct {
	Status string `json:"status"`
}

type sarifComponent struct {
	Name     string          `json:"name"`
	GUID     string          `json:"guid"`
	Rules    list[sarifRule] `json:"rules"`
	Messages dict[sarifText] `json:"globalMessageStrings"`
}

type sarifRule struct {
	ID            string             `json:"id"`
	GUID          string             `json:"guid"`
	Configuration sarifConfiguration `json:"defaultConfiguration"`
	Messages      dict[sarifText]    `json:"messageStrings"`

	component *sarifComponent // that has it
}

type sarifConfiguration struct {
	Level string `json:"level"`
}

// sarifText is a message's text, in one form or both.
type sarifText struct {
	Text     string `json:"text"`
	Markdown string `json:"markdown"`
}

func (t sarifText) String() string { return cmp.Or(t.Text, t.Markdown) }

// sarifReference names a rule in one way or several (§3.52).
type sarifReference struct {
	ID        string                  `json:"id"`
	GUID      string                  `json:"guid"`
	Index     *int                    `json:"index"`
	Component sarifComponentReference `json:"toolComponent"`
}

type sarifComponentReference struct {
	Name  string `json:"name"`
	GUID  string `json:"guid"`
	Index *int   `json:"index"`
}

type sarifResult struct {
	RuleID    string         `json:"ruleId"`
	RuleIndex *int           `json:"ruleIndex"`
	Rule      sarifReference `json:"rule"`
	Kind      string         `json:"kind"`
	Level     string         `json:"level"`
	Baseline  string         `json:"baselineState"`
	Message   struct {
		sarifText
		ID        string       `json:"id"`
		Arguments list[string] `json:"arguments"`
	} `json:"message"`
	Provenance struct {
		Invocation *int `json:"invocationIndex"`
	} `json:"provenance"`
	Suppressions list[sarifSuppression] `json:"suppressions"`
	Locations    first[struct {
		Physical struct {
			Artifact sarifLocation `json:"artifactLocation"`
			Region   struct {
				StartLine int `json:"startLine"`
			} `json:"region"`
		} `json:"physicalLocation"`
	}] `json:"locations"`
}

type sarifArtifact struct {
	Location sarifLocation `json:"location"`
}

// sarifLocation is a file, or the index of the artifact that has it.
type sarifLocation struct {
	URI   string `json:"uri"`
	Index *int   `json:"index"`
}

// maxElements bounds the elements of all arrays and maps of a SARIF log that are kept. An
// empty object of three bytes is a hundred times as large in memory.
const maxElements = 50_000

// list is an array. It is nil where there is none.
type list[T any] []T

// dict is a map of strings.
type dict[T any] map[string]T

// counted reads lists of one type, whose elements are taken from left.
func counted[T any](left *int) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(dec *jsontext.Decoder, l *list[T]) error {
		return elements(dec, func(int) error {
			v, err := element[T](dec, left)
			*l = append(*l, v)
			return err
		}, func() { *l = list[T]{} })
	})
}

// countedDict reads maps of one type, whose members are taken from left.
func countedDict[T any](left *int) *json.Unmarshalers {
	return json.UnmarshalFromFunc(func(dec *jsontext.Decoder, d *dict[T]) error {
		token, err := dec.ReadToken()
		if err != nil || token.Kind() == 'n' {
			return err
		}
		if token.Kind() != '{' {
			return errNoObject
		}
		*d = dict[T]{}
		for dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return err
			}
			key := name.String() // the token is good until the next is read
			if (*d)[key], err = element[T](dec, left); err != nil {
				return err
			}
		}
		_, err = dec.ReadToken()
		return err
	})
}

// element reads one element that is taken from left.
func element[T any](dec *jsontext.Decoder, left *int) (v T, err error) {
	if *left--; *left < 0 {
		return v, errTooMany
	}
	err = json.UnmarshalDecode(dec, &v)
	return v, err
}

var errTooMany = fmt.Errorf("its arrays and maps have more than %d elements", maxElements)

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

var (
	errNoArray  = errors.New("an array is expected")
	errNoObject = errors.New("an object is expected")
)

// sarif counts the results that are findings: not what passed or only informs, what
// was suppressed, or what is gone since a baseline. A run without results, or whose
// tool says that it did not get through, is an error: it found nothing because it
// looked at nothing.
func (rep *reading) sarif(r io.Reader) error {
	var log sarifLog
	left := maxElements
	lists := json.JoinUnmarshalers(counted[sarifRun](&left), counted[sarifComponent](&left), counted[sarifRule](&left),
		counted[sarifResult](&left), counted[sarifSuppression](&left), counted[sarifInvocation](&left), counted[sarifOverride](&left),
		counted[sarifArtifact](&left), counted[string](&left), countedDict[sarifText](&left))
	if err := json.UnmarshalRead(unmarked(r), &log, json.WithUnmarshalers(lists), jsontext.AllowInvalidUTF8(true)); err != nil {
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
	for i := range log.Runs {
		if err := rep.sarifRun(&log.Runs[i]); err != nil {
			return fmt.Errorf("run %d of the SARIF %w", i, err)
		}
	}
	for _, level := range levels[:slices.Index(levels, failLevel(rep.in))+1] {
		rep.Failures += rep.Findings[level]
	}
	return nil
}

func (rep *reading) sarifRun(run *sarifRun) error {
	if run.Tool.Driver.Name == "" {
		return errors.New("does not name its tool")
	}
	if run.Results == nil {
		return errors.New("has no results, not even none")
	}
	for _, in := range run.Invocations {
		if in.Successful != nil && !*in.Successful {
			return errors.New("says that its tool did not get through")
		}
	}
	rules := rulesOf(run)
	for i := range run.Results {
		res := &run.Results[i]
		of := rules.of(res)
		level := rules.level(res, of)
		if !slices.Contains(levels, level) {
			return fmt.Errorf("has a result of level %q, which is none of SARIF's", level)
		}
		if !res.counts() {
			continue
		}
		rep.Findings[level]++
		item := Item{Rule: cmp.Or(res.RuleID, res.Rule.ID), Level: level, Message: rules.message(res, of)}
		if item.Rule == "" && len(of) > 0 {
			item.Rule = of[0].ID
		}
		item.File, item.Line = run.place(res)
		rep.add(item)
	}
	return nil
}

// place returns where a result was found.
func (run *sarifRun) place(res *sarifResult) (file string, line int) {
	if len(res.Locations) == 0 {
		return "", 0
	}
	at := res.Locations[0].Physical
	uri := at.Artifact.URI
	if a := pick(run.Artifacts, at.Artifact.Index); uri == "" && a != nil {
		uri = a.Location.URI
	}
	file = strings.TrimPrefix(uri, "file://")
	if name, err := url.PathUnescape(file); err == nil {
		file = name
	}
	return file, at.Region.StartLine
}

// pick returns the element of an index that is one of l's, else nil.
func pick[T any](l list[T], index *int) *T {
	if index == nil || *index < 0 || *index >= len(l) {
		return nil
	}
	return &l[*index]
}

// counts reports whether r is a finding.
func (r *sarifResult) counts() bool {
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

// plain is a decoding error without the value that it is about.
func plain(err error) error {
	for _, known := range []error{errTooMany, errNoArray, errNoObject} {
		if errors.Is(err, known) {
			return known
		}
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		return fmt.Errorf("another type is expected at %s", semantic.JSONPointer)
	}
	return err
}
