package tool

import (
	"encoding/json"
	"errors"
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
		return nil, failure(run.ClassInvalid, "$NOFX_OUTPUT is not a regular file any more")
	}
	f, err := scratch.OpenFile(outputFile, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, failure(run.ClassInvalid, "open $NOFX_OUTPUT: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, run.MaxOutputBytes+1))
	if err != nil {
		return nil, failure(run.ClassInfrastructure, "read $NOFX_OUTPUT: %w", err)
	}
	if len(raw) > run.MaxOutputBytes {
		return nil, failure(run.ClassInvalid, "$NOFX_OUTPUT holds more than %d bytes", run.MaxOutputBytes)
	}
	return parseOutputs(string(raw))
}

// parseOutputs reads lines key=value. Empty lines are passed over, the last of
// several equal keys holds, and values are cleaned of what Postgres refuses.
func parseOutputs(text string) (map[string]any, error) {
	values := map[string]any{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !outputKey.MatchString(key) {
			return nil, failure(run.ClassInvalid, "$NOFX_OUTPUT line %d is not key=value with a key of %s", n, outputKey)
		}
		values[key] = sieve.Clean(value)
	}
	return values, nil
}

// maxListBytes is how much of a step's outputs a list may take as JSON: enough is
// left for what stands beside it.
const maxListBytes = run.MaxOutputBytes * 3 / 4

// Fit is the beginning of a list of outputs that is short enough to be one of them.
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
