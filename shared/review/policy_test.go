package review_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
)

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	got, err := review.ParsePolicy(`
version: 1
block: {severity: medium}
paths:
  - {match: "migrations/**", block: {severity: low, confidence: 0.6}, instructions: "forward only"}
  - {match: "migrations/x/**", instructions: "never read"}
ignore: ["**/*.gen.go"]
limits: {files: 10}
on_partial: fail
`, review.DefaultPolicy())
	if err != nil {
		t.Fatal(err)
	}
	want := review.DefaultPolicy()
	want.Block.Severity = review.Medium
	want.Paths = []review.PathRule{
		{Match: "migrations/**", Block: &review.Threshold{Severity: review.Low, Confidence: 0.6}, Instructions: "forward only"},
		{Match: "migrations/x/**", Instructions: "never read"},
	}
	want.Ignore = []string{"**/*.gen.go"}
	want.Limits.Files = 10
	want.OnPartial = review.Fail
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParsePolicy: want -, got +\n%s", diff)
	}
	if got.Hash() != want.Hash() || got.Hash() == review.DefaultPolicy().Hash() {
		t.Error("Hash is not that of what the policy says")
	}
	for path, want := range map[string]string{"migrations/x/1.sql": "forward only", "a.go": ""} {
		if got := got.Instructed(path).Instructions; got != want {
			t.Errorf("Instructed(%s) = %q, want %q", path, got, want)
		}
	}
	if !got.Ignores("a/b.gen.go") || got.Ignores("a/b.go") {
		t.Error("Ignores is not what its patterns say")
	}
	for path, want := range map[string]review.Severity{"migrations/1.sql": review.Low, "a.go": review.Medium} {
		if got := got.BlockAt(path).Severity; got != want {
			t.Errorf("BlockAt(%s) = %s, want %s", path, got, want)
		}
	}
}

// TestParsePolicyOfAPath: what the threshold of a path does not say is as for all files.
func TestParsePolicyOfAPath(t *testing.T) {
	t.Parallel()
	over := review.DefaultPolicy()
	over.Paths = []review.PathRule{{Match: "old", Block: &review.Threshold{Severity: review.Info}}}
	for text, want := range map[string]review.Threshold{
		"paths: [{match: a, block: {severity: low}}]":                                                           {Severity: review.Low, Confidence: 0.8},
		"paths: [{match: a, block: {confidence: 0.1}}]":                                                         {Severity: review.High, Confidence: 0.1},
		"paths: [{match: a, block: {severity: low, confidence: 0}}]":                                            {Severity: review.Low},
		"paths: [{match: a, block: {severity: low}}]\nblock: {severity: medium, confidence: 0.5}":               {Severity: review.Low, Confidence: 0.5},
		"paths: [{match: a, instructions: x}, {match: a, block: {confidence: 0.2}}]\nblock: {severity: medium}": {Severity: review.Medium, Confidence: 0.2},
		"paths: [{match: b, block: &b {severity: info}}, {match: a, block: *b}]":                                {Severity: review.Info, Confidence: 0.8},
		"paths: [{match: b, block: &b {severity: info}}, {match: a, block: {<<: *b, confidence: 0.3}}]":         {Severity: review.Info, Confidence: 0.3},
		"paths: [{match: a, block: {}}]":                                                                        {Severity: review.High, Confidence: 0.8},
		"paths: [{match: a, block: }]":                                                                          {Severity: review.High, Confidence: 0.8},
	} {
		p, err := review.ParsePolicy("version: 1\n"+text, over)
		if got := p.BlockAt("a"); err != nil || got != want {
			t.Errorf("BlockAt(a) of %s = %+v, %v, want %+v", text, got, err, want)
		}
	}
	if p, err := review.ParsePolicy("version: 1", over); err != nil || p.BlockAt("old") != (review.Threshold{Severity: review.Info}) {
		t.Errorf("BlockAt(old) = %+v, %v, want what the tenant says", p.BlockAt("old"), err)
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                             "the policy is empty; it has at least version: 1",
		"# nothing":                    "the policy is empty; it has at least version: 1",
		"block: {severity: high}":      "/version: is 0; there is 1 only",
		"version: 2":                   "/version: is 2; there is 1 only",
		"version: one":                 "line 1: cannot unmarshal !!str `one` as int",
		"version: 1\nblok: {}":         "line 2: there is no field blok",
		"version: 1\nversion: 1":       `line 2: mapping key "version" already defined at line 1`,
		"version: 1\n---\nversion: 1":  "the policy is more than one document",
		"version: 1\n\t- x":            "line 2: found a tab character that violates indentation",
		"version: 1\nignore: x":        "line 2: cannot unmarshal !!str `x` as []string",
		"[]":                           "line 1: cannot unmarshal !!seq as Policy",
		"version: 1\nignore: ['a[']":   `/ignore/0: "a[" is no pattern of paths`,
		"version: 1\non_partial: pass": `/on_partial: "pass" is neither warn nor fail`,
		"version: 1\nblock: {severity: worst, confidence: 2}":                                              `/block/severity: "worst" is no severity; there are critical, high, medium, low and info (and 1 more)`,
		"version: 1\nblock: {confidence: .nan}":                                                            "/block/confidence: NaN is not between 0 and 1",
		"version: 1\nlimits: {files: 0}":                                                                   "/limits/files: is 0; at least 1",
		"version: 1\nlimits: {cost_usd: 0}":                                                                "/limits/cost_usd: is 0 and must be more than 0",
		"version: 1\nlimits: {cost_usd: .inf}":                                                             "/limits/cost_usd: is +Inf and must be a number",
		"version: 1\nignore: ['" + strings.Repeat("{a,a}", 50) + "']":                                      `/ignore/0: "` + strings.Repeat("{a,a}", 20) + `": its braces stand for more than 1000 alternatives`,
		"version: 1\nignore: ['" + strings.Repeat("{a,b}", 9) + "', '" + strings.Repeat("{a,b}", 9) + "']": "/paths: the braces of all patterns stand for 1024 alternatives; at most 1000",
		"version: 1\nignore: [/a]":                                                                         `/ignore/0: "/a" matches no file: paths begin at the root of the repository, without a slash`,
		"version: 1\nignore: ['{a,./b}']":                                                                  `/ignore/0: "{a,./b}" matches no file: paths begin at the root of the repository, without a slash`,
		"version: 1\nignore: [a/]":                                                                         `/ignore/0: "a/" matches no file: for all in a folder, write a/**`,
		"version: 1\nignore: ['!a']":                                                                       `/ignore/0: "!a" takes nothing back; for a name that begins with !, write \!`,
		"version: 1\npaths: [{match: a, block: {severty: low}}]":                                           "line 2: there is no field severty",
		"version: 1\nratchet: {second: none}":                                                              `/ratchet/second: "none" is no severity; there are critical, high, medium, low and info`,
		"version: 1\npaths: [{match: ''}]":                                                                 `/paths/0/match: "" is no pattern of paths`,
		"version: 1\npaths: [{match: a, block: {severity: high, confidence: -1}}]":                         "/paths/0/block/confidence: -1 is not between 0 and 1",
		"version: 1\n#" + strings.Repeat("x", 300000):                                                      "the policy has 300012 bytes; at most 262144",
		"version: 1\n" + strings.Repeat("k: 1\n", 10000):                                                   "line 1: 10001 fields in one place; at most 32",
		"version: 1\nblock: {" + strings.Repeat("k: 1, ", 33) + "}":                                        "line 2: 33 fields in one place; at most 32",
	} {
		_, err := review.ParsePolicy(text, review.DefaultPolicy())
		if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Code != "invalid-policy" || e.Detail != want {
			t.Errorf("ParsePolicy(%.60q) = %v, want %s", text, err, want)
		}
	}
}

// TestPolicyOfTheReadme: the README shows a policy that can be used, and the values that hold
// without one.
func TestPolicyOfTheReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "```yaml\nversion: 1\n")
	text, _, _ = strings.Cut(text, "```")
	if !found {
		t.Fatal("the README has no policy")
	}
	none := review.DefaultPolicy()
	none.Block, none.Limits, none.Ratchet, none.OnPartial, none.RequestChanges = review.Threshold{}, review.Limits{}, review.Ratchet{}, "", true
	got, err := review.ParsePolicy("version: 1\n"+text, none)
	if err != nil || len(got.Paths) != 1 {
		t.Fatalf("ParsePolicy(README) = %+v, %v, want a policy with a path", got, err)
	}
	got.Paths, got.Ignore = nil, nil
	if diff := cmp.Diff(review.DefaultPolicy(), got); diff != "" {
		t.Errorf("the README's policy but for its path is not the one that holds without any (-want +got):\n%s", diff)
	}
}
