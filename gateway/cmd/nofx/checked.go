package main

import (
	"fmt"
	"io"
)

// checkedWriter remembers the first error of writing: output that got lost, as on a
// full disk, is a failure of the command, whatever else it did.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(p)
	if err != nil {
		c.err = fmt.Errorf("the output could not be written: %w", err)
	}
	return n, c.err
}
