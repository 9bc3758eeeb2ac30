package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// sarifLog is the part of SARIF 2.1.0 that says what was found.
type sarifLog struct {
	Version string               `json:"version"`
	Runs    list[sarifRun]       `json:"runs"`
	Inline  list[sarifElsewhere] `json:"inlineExternalProperties"`
}

type sarifRun struct {
	Tool struct {
		Driver     sarifComponent       `json:"driver"`
		Extensions list[sarifComponent] `json:"extensions"`
	} `json:"tool"`
	Results     list[sarifResult]     `json:"results"`
	Invocations list[sarifInvocation] `json:"invocations"`
	Artifacts   list[sarifArtifact]   `json:"artifacts"`
	Elsewhere   sarifElsewhere        `json:"externalPropertyFileReferences"`
}

// sarifElsewhere is what of a run lies elsewhere, in other files (§3.14.2) or in the log
// (§3.13.5), as far as it says whether something was found, and how bad that is.
type sarifElsewhere struct {
	Results     first[struct{}] `json:"results"`
	Invocations first[struct{}] `json:"invocations"`
	Extensions  first[struct{}] `json:"extensions"`
	Driver      *struct{}       `json:"driver"`
}

type sarifInvocation struct {
	Successful    *bool               `json:"executionSuccessful"`
	ExitCode      jsontext.Value      `json:"exitCode"`
	Signal        string              `json:"exitSignalName"`
	SignalNumber  jsontext.Value      `json:"exitSignalNumber"`
	NotStarted    string              `json:"processStartFailureMessage"`
	Execution     sarifErrors         `json:"toolExecutionNotifications"`
	Configuration sarifErrors         `json:"toolConfigurationNotifications"`
	Overrides     list[sarifOverride] `json:"ruleConfigurationOverrides"`
}

// sarifErrors is whether there is an error among notifications, of which there may be
// one for each file. A level that SARIF does not have is taken for one.
type sarifErrors bool

func (e *sarifErrors) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return elements(dec, func(int) error {
		var n struct {
			Level string `json:"level"`
		}
		err := json.UnmarshalDecode(dec, &n)
		*e = *e || worse(defaultLevel, n.Level) != defaultLevel
		return err
	}, func() {})
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

// readSARIF reads a log to its end, of which it keeps what is bounded.
func readSARIF(r io.Reader) (log sarifLog, err error) {
	left := maxElements
	lists := json.JoinUnmarshalers(counted[sarifRun](&left), counted[sarifComponent](&left), counted[sarifRule](&left),
		counted[sarifResult](&left), counted[sarifSuppression](&left), counted[sarifInvocation](&left), counted[sarifOverride](&left),
		counted[sarifArtifact](&left), counted[sarifElsewhere](&left), counted[string](&left), countedDict[sarifText](&left))
	if err := json.UnmarshalRead(unmarked(r), &log, json.WithUnmarshalers(lists), jsontext.AllowInvalidUTF8(true)); err != nil {
		return log, plain(err)
	}
	return log, nil
}

// plain returns a decoding error without the value that it is about.
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
