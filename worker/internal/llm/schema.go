package llm

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schema is what an answer must be. Providers are shown it, and hold to it more or
// less; [Schema.Check] is what counts.
//
// Providers take a part of JSON Schema only: each object lists all its properties as
// required and has additionalProperties false; what is optional is nullable.
type Schema struct {
	Name string // [a-z_]+
	JSON json.RawMessage

	compiled *jsonschema.Schema
}

// MustSchema makes a schema of a document in the source code, and panics when it
// is none.
func MustSchema(name, doc string) *Schema {
	c := jsonschema.NewCompiler()
	parsed, err := jsonschema.UnmarshalJSON(strings.NewReader(doc))
	if err == nil {
		err = c.AddResource("schema", parsed)
	}
	if err != nil {
		panic("llm: schema " + name + ": " + err.Error())
	}
	return &Schema{Name: name, JSON: json.RawMessage(doc), compiled: c.MustCompile("schema")}
}

// maxMistakes is how many of an answer's mistakes are told.
const maxMistakes = 10

// Check returns how text differs from what the schema wants: one JSON value in UTF-8
// without repeated names, and then where it differs, by JSON pointers.
func (s *Schema) Check(text string) error {
	raw := jsontext.Value(text)
	if !raw.IsValid() {
		return errors.New("is not one JSON value in UTF-8 with unique names")
	}
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return errors.New("is not one JSON value")
	}
	err = s.compiled.Validate(value)
	if wrong, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		var mistakes []string
		for _, unit := range wrong.BasicOutput().Errors {
			if unit.Error != nil && len(mistakes) < maxMistakes {
				mistakes = append(mistakes, fmt.Sprintf("%s: %s", unit.InstanceLocation, unit.Error))
			}
		}
		return errors.New(strings.Join(mistakes, "; "))
	}
	return err
}
