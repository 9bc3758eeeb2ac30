package httpapi

import (
	"bytes"
	"encoding/json"

	"github.com/labstack/echo/v4"

	"nofx.dev/shared/postgres"
)

// answer writes v as JSON.
func answer(c echo.Context, status int, v any) error {
	return c.Blob(status, echo.MIMEApplicationJSON, encode(v))
}

// encode returns v as JSON without needless escapes. v is one of the contract's types,
// which always encode.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // to observe, which answers 500
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// ptr returns a pointer to v, or nil for the zero value, which is left out of an answer.
func ptr[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// write writes an answer that is complete.
func write(c echo.Context, a postgres.Answer) error {
	for name, value := range a.Header {
		c.Response().Header().Set(name, value)
	}
	return c.Blob(a.Status, a.Header["Content-Type"], a.Body)
}
