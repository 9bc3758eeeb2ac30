package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"syscall"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/sieve"
)

var outputKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`)

// readOutputs reads what a step wrote to $NOFX_OUTPUT: a regular file in its
// place, no link and no pipe that would block. None at all is no output.
func readOutputs(scratch *os.Root) (map[string]any, error) {
	info, err := scratch.Lstat(outputFile)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]any{}, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return nil, Failuref(run.ClassInvalid, "$NOFX_OUTPUT is not a regular file any more")
	}
	f, err := scratch.OpenFile(outputFile, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Failuref(run.ClassInvalid, "open $NOFX_OUTPUT: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, run.MaxOutputBytes+1))
	if err != nil {
		return nil, Failuref(run.ClassInfrastructure, "read $NOFX_OUTPUT: %w", err)
	}
	if len(raw) > run.MaxOutputBytes {
		return nil, Failuref(run.ClassInvalid, "$NOFX_OUTPUT holds more than %d bytes", run.MaxOutputBytes)
	}
	return parseOutputs(string(raw))
}

// parseOutputs reads lines key=value, and blocks: a line key<<DELIMITER, the lines of
// the value, and the line DELIMITER. Empty lines are passed over, the last of several
// equal keys holds, and values are cleaned of what Postgres refuses.
//
// Whatever the value of a block holds, it gives no other output: a value that ends
// its block early leaves the delimiter that was meant to end it further down, at the
// end of a line at least, and such a line is refused. So each block of a file has a
// delimiter of its own.
func parseOutputs(text string) (map[string]any, error) {
	invalid := func(line int, format string, args ...any) error {
		return Failuref(run.ClassInvalid, "$NOFX_OUTPUT line %d %s", line, fmt.Sprintf(format, args...))
	}
	values := map[string]any{}
	var key, delimiter string // of the block that has begun
	var block strings.Builder
	var ended []string // the delimiters of those before
	n, begun := 0, 0
	for line := range strings.Lines(text) {
		n++
		bare := trimLineEnd(line)
		for _, d := range ended {
			if strings.HasSuffix(bare, d) {
				return nil, invalid(n, "ends with %q, as a block before it does; let each block end with a line of its own, which no value has", d)
			}
		}
		switch {
		case delimiter != "" && bare == delimiter:
			values[key] = sieve.Clean(trimLineEnd(block.String()))
			ended, delimiter = append(ended, delimiter), ""
			block.Reset()
			continue
		case delimiter != "":
			block.WriteString(line)
			continue
		case bare == "":
			continue
		}
		name, value, ok := strings.Cut(bare, "=")
		if before, after, found := strings.Cut(bare, "<<"); found && len(before) < len(name) {
			name, ok = before, after != ""
			key, delimiter, begun = before, after, n
		}
		if !ok || !outputKey.MatchString(name) {
			return nil, invalid(n, "is neither key=value nor key<<DELIMITER with a key of %s", outputKey)
		}
		if delimiter == "" {
			values[name] = sieve.Clean(value)
		}
	}
	if delimiter != "" {
		return nil, invalid(begun, "begins a block that no line %q ends", delimiter)
	}
	return values, nil
}

// trimLineEnd returns s without the end of its last line.
func trimLineEnd(s string) string { return strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r") }

// maxListBytes is how much of a step's outputs a list may take as JSON: enough is
// left for what stands beside it.
const maxListBytes = run.MaxOutputBytes * 3 / 4

// Fit returns the beginning of a list of outputs that is short enough to be one of them.
// Where it may be cut, its length is another output.
func Fit[T any](list []T) []T {
	size := 0
	for i, v := range list {
		raw, err := json.Marshal(v)
		if size += len(raw) + 1; err != nil || size > maxListBytes {
			return list[:i]
		}
	}
	return list
}
