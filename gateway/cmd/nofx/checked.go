package main

import (
	"fmt"
	"io"
)

// checkedWriter remembers the first error of writing: a command whose output was lost, for
// example on a full disk, has failed.
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
