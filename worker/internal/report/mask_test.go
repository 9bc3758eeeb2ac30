package report_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/report"
)

// A secret lies at many places around the borders where text of a report is cut, and a
// key is longer than what is kept of a test's output.
func TestWhatIsCutWasMaskedBefore(t *testing.T) {
	t.Parallel()
	const canary = "Zx81Qq7Vb2Lm4Kt9Wd3Hy6Rf5Gs8Nc1P"
	lines := make([]string, 60)
	for i := range lines {
		lines[i] = strings.Repeat(fmt.Sprintf("%02dAb", i), 16)
	}
	key := "-----BEGIN PRIVATE KEY-----\n" + strings.Join(lines, "\n") + "\n-----END PRIVATE KEY-----\n"
	events := func(action string, texts ...string) string {
		var out strings.Builder
		for _, text := range texts {
			raw, _ := json.Marshal(map[string]string{"Action": action, "Package": "p", "Test": "T", "ImportPath": "p", "Output": text})
			out.Write(append(raw, '\n'))
		}
		return out.String()
	}
	const failed = `{"Action":"fail","Package":"p","Test":"T"}` + "\n" + `{"Action":"fail","Package":"p","FailedBuild":"p"}` + "\n"
	const unbuilt = `{"Action":"fail","Package":"p","FailedBuild":"p"}` + "\n"
	split := strings.SplitAfter(key, "\n")
	formats := map[string]func(before string) string{
		"gotest": func(before string) string { return events("output", before+canary+"\n") + failed },
		"gotest key": func(before string) string {
			return events("output", append(split, before+"\n")...) + failed
		},
		"gotest panic": func(before string) string {
			return events("output", append([]string{"panic: " + before + canary + "\n"}, split...)...) + failed
		},
		"gotest build": func(before string) string {
			return events("build-output", append([]string{before + canary + "\n"}, split...)...) + unbuilt
		},
		"junit attributes": func(before string) string {
			return fmt.Sprintf(`<testsuite><testcase name=%[1]q file=%[1]q classname=%[1]q><failure message=%[1]q/></testcase></testsuite>`, before+canary)
		},
		"junit text": func(before string) string {
			return "<testsuite><testcase name='a'><failure>" + before + canary + "\n" + key + "</failure></testcase></testsuite>"
		},
		"junit element": func(before string) string { return "<a" + before + canary + "/>" },
		"sarif": func(before string) string {
			return fmt.Sprintf(`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x"}},"results":[{"ruleId":%[1]q,"level":"error","message":{"text":%[1]q},
				"locations":[{"physicalLocation":{"artifactLocation":{"uri":%[1]q}}}]}]}]}`, before+canary)
		},
		"sarif version": func(before string) string { return fmt.Sprintf(`{"version":%q}`, before+canary) },
	}
	for name, text := range formats {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			format, _, _ := strings.Cut(name, " ")
			for _, border := range []int{0, 32, 128, 256, 512, 1 << 10, 2 << 10} {
				for at := max(0, border-len(canary)-1); at <= border; at += 3 {
					r, err := report.Parse(run.GateReport{Format: format}, strings.NewReader(text(strings.Repeat("7", at))), telemetry.NewRedactor(canary).String)
					shown := fmt.Sprint(r, err)
					for _, secret := range append(lines, canary) {
						for i := 0; i+12 <= len(secret); i++ {
							if strings.Contains(shown, secret[i:i+12]) {
								t.Fatalf("Parse(%s with a secret at %d) shows %q: %.600s", name, at, secret[i:i+12], shown)
							}
						}
					}
					if len(r.Items) == 0 && err == nil {
						t.Fatalf("Parse(%s) = nothing, want an item or an error", name)
					}
				}
			}
		})
	}
}
