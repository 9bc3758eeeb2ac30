package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// The sources of a workspace.
const (
	EmptyWorkspace  = "empty"
	GitWorkspace    = "git"
	UploadWorkspace = "upload"
)

// workspace returns w with its defaults. Each source has its own member and no other.
func (c *checker) workspace(w *Workspace) *Workspace {
	const at = "/plan/workspace"
	if w == nil {
		return &Workspace{Source: EmptyWorkspace}
	}
	full := *w
	if full.Source == "" {
		full.Source = EmptyWorkspace
	}
	switch full.Source {
	case EmptyWorkspace:
	case GitWorkspace:
		if full.Git == nil {
			c.add(at+"/git", "is required")
			break
		}
		c.repository(at+"/git", full.Git.URL, full.Git.Ref)
		if strings.Contains(full.Git.URL+full.Git.Ref, templateBegin) {
			c.add(at+"/git", "templates are not expanded here, since no step runs before this")
		}
	case UploadWorkspace:
		if full.ArtifactID == "" {
			c.add(at+"/artifact_id", "is required")
			break
		}
		c.artifact(at+"/artifact_id", full.ArtifactID)
	default:
		c.add(at+"/source", `must be "empty", "git" or "upload"`)
		return &full
	}
	if c.unsure(at, "source") {
		full.Git, full.ArtifactID = nil, "" // it is unknown whether they belong here
	}
	if full.Git != nil && full.Source != GitWorkspace {
		c.add(at+"/git", fmt.Sprintf("is only for source %q", GitWorkspace))
	}
	if full.ArtifactID != "" && full.Source != UploadWorkspace {
		c.add(at+"/artifact_id", fmt.Sprintf("is only for source %q", UploadWorkspace))
	}
	c.list(at+"/excludes", full.Excludes)
	for i, pattern := range full.Excludes {
		if _, problem := ParseExclude(pattern); problem != "" && pattern != "" && BadText(pattern) == "" {
			c.add(at+"/excludes/"+strconv.Itoa(i), problem)
		}
	}
	return &full
}

func (c *checker) artifact(at, id string) {
	if _, err := ArtifactID.Parse(id); err != nil {
		c.add(at, "no such artifact")
	}
}

// fetch returns the step that brings the workspace of p in, and false when it starts
// empty. A plan cannot have a step of its name, nor name its tool unpack.
func (p Plan) fetch() (PlanStep, bool) {
	if p.Workspace == nil || p.Workspace.Source == "" || p.Workspace.Source == EmptyWorkspace {
		return PlanStep{}, false
	}
	w := p.Workspace
	s := PlanStep{Name: "workspace~" + w.Source, DependsOn: []string{}, TimeoutS: new(int(DefaultStepTimeout.Seconds()))}
	var inputs any
	if w.Source == GitWorkspace {
		// The server of a repository may be unavailable for a moment.
		s.Tool, s.Retry = ToolGitCheckout, &PlanRetry{MaxAttempts: new(3), Backoff: "exponential", InitialS: new(1.0)}
		inputs = CheckoutInputs{URL: w.Git.URL, Ref: w.Git.Ref, Submodules: w.Git.Submodules, LFS: w.Git.LFS}
	} else {
		s.Tool, s.Retry = ToolUnpack, &PlanRetry{MaxAttempts: new(1), Backoff: "exponential", InitialS: new(1.0)}
		inputs = UnpackInputs{ArtifactID: w.ArtifactID}
	}
	s.Inputs, _ = json.Marshal(inputs) // texts that were checked
	return s, true
}

// Expanded returns a normalised plan with all steps of its run: first the step that fetches
// the workspace, if there is one, then the plan's own. Steps without dependencies wait for
// the first one, so all steps start from the same tree, which is a checkpoint like any
// other. Plans are stored unexpanded; an expanded plan is returned unchanged.
func (p Plan) Expanded() Plan {
	fetch, ok := p.fetch()
	if !ok || len(p.Steps) > 0 && p.Steps[0].Name == fetch.Name {
		return p
	}
	steps := append([]PlanStep{fetch}, p.Steps...)
	for i := range steps[1:] {
		if s := &steps[i+1]; len(s.DependsOn) == 0 {
			s.DependsOn = []string{fetch.Name}
		}
	}
	p.Steps = steps
	return p
}

// ArtifactRef is a place in a plan that names an artifact.
type ArtifactRef struct {
	Pointer string
	ID      uuid.UUID
}

// Artifacts returns the places of a normalised plan that name artifacts.
func (p Plan) Artifacts() (refs []ArtifactRef) {
	add := func(at, id string) {
		if parsed, err := ArtifactID.Parse(id); err == nil {
			refs = append(refs, ArtifactRef{at, parsed})
		}
	}
	if w := p.Workspace; w != nil && w.Source == UploadWorkspace {
		add("/plan/workspace/artifact_id", w.ArtifactID)
	}
	for i, s := range p.Steps {
		if s.Tool == ToolReview {
			if in, err := Inputs[ReviewInputs](s.Inputs); err == nil {
				add("/plan/steps/"+strconv.Itoa(i)+"/inputs/artifact_id", in.ArtifactID)
			}
			continue
		}
		if s.Tool != ToolWorkspaceWrite || !bytes.Contains(s.Inputs, []byte(`"artifact_id"`)) {
			continue
		}
		in, err := Inputs[WriteInputs](s.Inputs)
		if err != nil {
			continue // Normalise has said so
		}
		for j, f := range in.Files {
			if f.ArtifactID != "" {
				add("/plan/steps/"+strconv.Itoa(i)+"/inputs/files/"+strconv.Itoa(j)+"/artifact_id", f.ArtifactID)
			}
		}
	}
	return refs
}
