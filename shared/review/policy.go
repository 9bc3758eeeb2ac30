package review

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/glob"
)

// PolicyPath is where a repository keeps its policy.
const PolicyPath = ".nofx/review.yaml"

// MaxPolicy is how many bytes the text of a policy may have.
const MaxPolicy = 256 << 10

// Limits of a policy.
const (
	maxPatterns        = 200
	maxInstructionText = 4000
	maxFields          = 32 // of one mapping; the decoder compares each with each
)

// Policy decides what of a change is read, what is posted, and what fails. It is read from
// the base of a change, so that a change cannot relax its own gate.
type Policy struct {
	Version        int        `yaml:"version" json:"version"` // 1
	Block          Threshold  `yaml:"block" json:"block"`
	Paths          []PathRule `yaml:"paths" json:"paths"`
	Ignore         []string   `yaml:"ignore" json:"ignore"`
	Limits         Limits     `yaml:"limits" json:"limits"`
	Ratchet        Ratchet    `yaml:"ratchet" json:"ratchet"`
	OnPartial      OnPartial  `yaml:"on_partial" json:"on_partial"`
	RequestChanges bool       `yaml:"request_changes" json:"request_changes"`
}

// Threshold is what an open finding reaches to fail the gate: both.
type Threshold struct {
	Severity   Severity `yaml:"severity" json:"severity"`
	Confidence float64  `yaml:"confidence" json:"confidence"`
}

// PathRule holds for the files that match. The first that has a say counts. What its
// threshold does not say is that of the policy.
type PathRule struct {
	Match        string     `yaml:"match" json:"match"`
	Block        *Threshold `yaml:"block" json:"block,omitempty"`
	Instructions string     `yaml:"instructions" json:"instructions,omitempty"` // for the model
}

// Limits bound a review.
type Limits struct {
	Files          int     `yaml:"files" json:"files"`
	ChangedLines   int     `yaml:"changed_lines" json:"changed_lines"`
	InlineComments int     `yaml:"inline_comments" json:"inline_comments"`
	Tokens         int64   `yaml:"tokens" json:"tokens"`
	CostUSD        float64 `yaml:"cost_usd" json:"cost_usd"`
}

// Ratchet has the severity below which a finding is not posted anew, on the second review of
// a change and on later ones.
type Ratchet struct {
	Second Severity `yaml:"second" json:"second"`
	Later  Severity `yaml:"later" json:"later"`
}

// OnPartial says what becomes of a change that was read in part.
type OnPartial string

// What may become of it.
const (
	Warn OnPartial = "warn"
	Fail OnPartial = "fail"
)

// DefaultPolicy returns the policy where nobody has said anything.
func DefaultPolicy() Policy {
	return Policy{
		Version:   1,
		Block:     Threshold{High, 0.8},
		Limits:    Limits{Files: 300, ChangedLines: 20000, InlineComments: 25, Tokens: 200000, CostUSD: 2},
		Ratchet:   Ratchet{Low, Medium},
		OnPartial: Warn,
	}
}

// ParsePolicy reads a policy over another one: what it does not say is as there. An error
// is fault.Invalid and has all that is wrong with it.
func ParsePolicy(text string, over Policy) (Policy, error) {
	bad := func(detail string) (Policy, error) {
		return Policy{}, fault.OfFields("invalid-policy", fault.Field{Detail: detail})
	}
	if len(text) > MaxPolicy {
		return bad(fmt.Sprintf("the policy has %d bytes; at most %d", len(text), MaxPolicy))
	}
	var doc yaml.Node
	if yaml.Unmarshal([]byte(text), &doc) == nil {
		if m := crowded(&doc); m != nil {
			return bad(fmt.Sprintf("line %d: %d fields in one place; at most %d", m.Line, len(m.Content)/2, maxFields))
		}
	}
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	p := over
	p.Version = 0
	p.Paths, p.Ignore = slices.Clone(over.Paths), slices.Clone(over.Ignore)
	err := d.Decode(&p)
	switch wrong, ok := errors.AsType[*yaml.TypeError](err); {
	case errors.Is(err, io.EOF):
		return bad("the policy is empty; it has at least version: 1")
	case ok:
		fields := make([]fault.Field, len(wrong.Errors))
		for i, e := range wrong.Errors {
			fields[i].Detail = plain(e)
		}
		return Policy{}, fault.OfFields("invalid-policy", fields...)
	case err != nil:
		return bad(plain(strings.TrimPrefix(err.Error(), "yaml: ")))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return bad("the policy is more than one document")
	}
	p.fillPaths(text)
	if wrong := p.problems(); len(wrong) > 0 {
		return Policy{}, fault.OfFields("invalid-policy", wrong...)
	}
	return p, nil
}

// crowded returns a mapping with too many fields, or nil.
func crowded(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.MappingNode && len(n.Content)/2 > maxFields {
		return n
	}
	for _, c := range n.Content {
		if m := crowded(c); m != nil {
			return m
		}
	}
	return nil
}

// fillPaths gives the thresholds of paths in the text of a policy what they do not say: it is
// as for all files.
func (p *Policy) fillPaths(text string) {
	var said struct {
		Paths []struct {
			Block *struct {
				Severity   *Severity
				Confidence *float64
			}
		}
	}
	_ = yaml.Unmarshal([]byte(text), &said) // it was decoded before
	for i, rule := range said.Paths {
		if rule.Block != nil && rule.Block.Severity == nil {
			p.Paths[i].Block.Severity = p.Block.Severity
		}
		if rule.Block != nil && rule.Block.Confidence == nil {
			p.Paths[i].Block.Confidence = p.Block.Confidence
		}
	}
}

var unknownField = regexp.MustCompile(`field (.*) not found in type \S+$`)
var intoType = regexp.MustCompile(` into (?:review\.)?(\S+)$`)

// plain returns what the decoder says without the names of types.
func plain(s string) string {
	s = unknownField.ReplaceAllString(s, "there is no field $1")
	return intoType.ReplaceAllString(s, " as $1")
}

// problems returns all that is wrong with a policy that could be decoded.
func (p Policy) problems() (wrong []fault.Field) {
	add := func(at, format string, args ...any) {
		wrong = append(wrong, fault.Field{Pointer: at, Detail: fmt.Sprintf(format, args...)})
	}
	severity := func(at string, s Severity) {
		if !slices.Contains(Severities, s) {
			add(at, "%q is no severity; there are critical, high, medium, low and info", s)
		}
	}
	threshold := func(at string, t Threshold) {
		severity(at+"/severity", t.Severity)
		if !(t.Confidence >= 0 && t.Confidence <= 1) {
			add(at+"/confidence", "%v is not between 0 and 1", t.Confidence)
		}
	}
	alternatives := 0
	pattern := func(at, s string) {
		switch problem := glob.Problem(s); {
		case s == "" || problem == glob.NoPattern:
			add(at, "%.100q is no pattern of paths", s)
		case problem != "":
			add(at, "%.100q: %s", s, problem)
		default:
			for one := range glob.Alternatives(s) {
				alternatives++
				if why := futile(one); why != "" {
					add(at, "%.100q %s", s, why)
					break
				}
			}
		}
	}
	if p.Version != 1 {
		add("/version", "is %d; there is 1 only", p.Version)
	}
	threshold("/block", p.Block)
	if n := len(p.Paths) + len(p.Ignore); n > maxPatterns {
		add("/paths", "paths and ignore have %d patterns; at most %d", n, maxPatterns)
	}
	for i, r := range p.Paths {
		at := fmt.Sprintf("/paths/%d", i)
		pattern(at+"/match", r.Match)
		if r.Block != nil {
			threshold(at+"/block", *r.Block)
		}
		if len(r.Instructions) > maxInstructionText {
			add(at+"/instructions", "has %d bytes; at most %d", len(r.Instructions), maxInstructionText)
		}
	}
	for i, s := range p.Ignore {
		pattern(fmt.Sprintf("/ignore/%d", i), s)
	}
	if alternatives > glob.Max { // each is matched with every file
		add("/paths", "the braces of all patterns stand for %d alternatives; at most %d", alternatives, glob.Max)
	}
	if n := p.Limits.Files; n < 1 {
		add("/limits/files", "is %d; at least 1", n)
	}
	if n := p.Limits.ChangedLines; n < 1 {
		add("/limits/changed_lines", "is %d; at least 1", n)
	}
	if n := p.Limits.InlineComments; n < 0 {
		add("/limits/inline_comments", "is %d; at least 0", n)
	}
	if p.Limits.Tokens < 1 {
		add("/limits/tokens", "is %d; at least 1", p.Limits.Tokens)
	}
	if !(p.Limits.CostUSD > 0) {
		add("/limits/cost_usd", "is %v and must be more than 0", p.Limits.CostUSD)
	} else if math.IsInf(p.Limits.CostUSD, 1) { // JSON has no word for it
		add("/limits/cost_usd", "is %v and must be a number", p.Limits.CostUSD)
	}
	severity("/ratchet/second", p.Ratchet.Second)
	severity("/ratchet/later", p.Ratchet.Later)
	if p.OnPartial != Warn && p.OnPartial != Fail {
		add("/on_partial", "%q is neither warn nor fail", p.OnPartial)
	}
	return wrong
}

// futile returns why a pattern without braces matches no file, although somebody who
// knows other patterns may think so, or "".
func futile(pattern string) string {
	switch {
	case strings.HasPrefix(pattern, "!"):
		return `takes nothing back; for a name that begins with !, write \!`
	case strings.HasPrefix(pattern, "/"), strings.HasPrefix(pattern, "./"), strings.HasPrefix(pattern, "../"):
		return "matches no file: paths begin at the root of the repository, without a slash"
	case strings.HasSuffix(pattern, "/"):
		return "matches no file: for all in a folder, write " + pattern + "**"
	}
	return ""
}

// Hash names the policy, in hex.
func (p Policy) Hash() string {
	var b bytes.Buffer
	_ = json.NewEncoder(&b).Encode(p) // a policy that was read has no numbers that JSON has not
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:])
}

// Ignores reports whether a file is not reviewed.
func (p Policy) Ignores(path string) bool {
	return slices.ContainsFunc(p.Ignore, func(pattern string) bool { return doublestar.MatchUnvalidated(pattern, path) })
}

// BlockAt returns the threshold for findings in a file.
func (p Policy) BlockAt(path string) Threshold {
	for _, r := range p.Paths {
		if r.Block != nil && doublestar.MatchUnvalidated(r.Match, path) {
			return *r.Block
		}
	}
	return p.Block
}

// Blocks reports whether an open finding fails the gate.
func (p Policy) Blocks(f Finding) bool {
	t := p.BlockAt(f.Anchor.Path)
	return f.Severity.Reaches(t.Severity) && f.Confidence >= t.Confidence
}

// Instructed returns the rule that has instructions about a file, or one without any.
func (p Policy) Instructed(path string) PathRule {
	for _, r := range p.Paths {
		if r.Instructions != "" && doublestar.MatchUnvalidated(r.Match, path) {
			return r
		}
	}
	return PathRule{}
}
