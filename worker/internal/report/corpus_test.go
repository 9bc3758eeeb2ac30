package report_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/report"
)

// Reads all files below the folder NOFX_REPORTS, as sample reports of other tools, in
// the format that each looks like, and logs what they say. Run it with -v.
func TestCorpus(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("NOFX_REPORTS")
	if dir == "" {
		t.Skip("NOFX_REPORTS names no folder of reports")
	}
	read, all := map[string]int{}, map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || !d.Type().IsRegular() || ext == ".go" || ext == ".md" {
			return err
		}
		raw, err := os.ReadFile(path)
		format := looksLike(raw)
		if err != nil || format == "" {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		all[format]++
		in := run.GateReport{Format: format}
		r, err := report.Parse(in, bytes.NewReader(raw), nothing)
		if err != nil {
			t.Logf("%-6s %s: %v", format, name, err)
			return nil
		}
		read[format]++
		t.Logf("%-6s %s: %s", format, name, r.Says(in))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range run.ReportFormats {
		t.Logf("%-6s %d of %d are read", format, read[format], all[format])
	}
}

// looksLike returns the format of a report, or "".
func looksLike(raw []byte) string {
	start := bytes.TrimSpace(raw[:min(len(raw), 4<<10)])
	switch {
	case bytes.Contains(start, []byte("<testsuite")):
		return "junit"
	case bytes.Contains(start, []byte(`"Action":`)):
		return "gotest"
	case bytes.HasPrefix(start, []byte("{")) && bytes.Contains(raw, []byte(`"runs"`)):
		return "sarif"
	}
	return ""
}
