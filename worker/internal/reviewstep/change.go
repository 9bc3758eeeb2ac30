package reviewstep

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/content"
	"nofx.dev/worker/internal/diff"
	"nofx.dev/worker/internal/tool"
)

// change is what is reviewed.
type change struct {
	base, head         string // names of commits, trees or digests
	title, description string
	diff               string
	missing            []review.Skip // files whose lines are not in the diff
	bound              string        // text of the policy that the repository was given; may be ""
	policy             *string       // text of the policy at the base; nil: there is none

	// files returns files at the head; nil: one that is not there.
	files func(ctx context.Context, paths []string) (map[string]*string, error)
}

// Limits of what is read.
const (
	maxDiff = 32 << 20
	maxFile = 1 << 20
)

// change reads what is reviewed.
func (a *attempt) change(ctx context.Context) (*change, error) {
	switch {
	case a.inputs.ArtifactID != "":
		return a.given(ctx)
	case a.inputs.Diff == run.WorkspaceDiff:
		return a.workspace(ctx)
	}
	return a.pullRequest(ctx)
}

// given returns a change that is a diff and nothing else.
func (a *attempt) given(ctx context.Context) (*change, error) {
	id, err := run.ArtifactID.Parse(a.inputs.ArtifactID)
	if err != nil {
		return nil, tool.Failuref(run.ClassInvalid, "%w", err)
	}
	artifact, err := a.DB.Artifact(ctx, a.call.Claim.TenantID, id)
	if errors.Is(err, fault.NotFound) {
		return nil, tool.Failuref(run.ClassInvalid, "the diff is not there any more: %w", err)
	} else if err != nil {
		return nil, err
	}
	if artifact.Size > maxDiff {
		return nil, tool.Failuref(run.ClassInvalid, "the diff has %s; at most %d", fault.Count(artifact.Size, "byte"), maxDiff)
	}
	raw, err := read(ctx, a.Blobs, artifact)
	if err != nil {
		return nil, err
	}
	return &change{
		head: fmt.Sprintf("%x", artifact.SHA256), diff: string(raw),
		files: func(context.Context, []string) (map[string]*string, error) { return nil, nil },
	}, nil
}

// workspace returns what the steps of a run have changed in its workspace.
func (a *attempt) workspace(ctx context.Context) (*change, error) {
	tenant := a.call.Claim.TenantID
	var against *uuid.UUID
	if a.inputs.Against != "" {
		id, err := run.CheckpointID.Parse(a.inputs.Against)
		if err != nil {
			return nil, tool.Failuref(run.ClassInvalid, "%w", err)
		}
		against = &id
	}
	_, base, err := a.DB.ReviewBase(ctx, tenant, a.call.Claim.RunID, against)
	if errors.Is(err, fault.NotFound) {
		return nil, tool.Failuref(run.ClassInvalid, "no such checkpoint to compare with: %w", err)
	} else if err != nil {
		return nil, err
	}
	stored := content.New(a.DB, a.Blobs, tenant)
	doc, err := stored.Patch(ctx, base, a.call.Tree)
	if err != nil {
		return nil, err
	}
	c := &change{base: base.String(), head: a.call.Tree.String(), diff: string(doc.Patch()), missing: missing(doc)}
	switch text, err := stored.File(ctx, base, review.PolicyPath, review.MaxPolicy); {
	case err == nil:
		policy := string(text)
		c.policy = &policy
	case !errors.Is(err, fault.NotFound):
		return nil, err
	}
	c.files = func(ctx context.Context, paths []string) (map[string]*string, error) {
		files := make(map[string]*string, len(paths))
		for _, p := range paths {
			text, err := stored.File(ctx, a.call.Tree, p, maxFile)
			switch {
			case err == nil:
				s := string(text)
				files[p] = &s
			case errors.Is(err, fault.NotFound):
				files[p] = nil
			case !errors.Is(err, fault.Invalid): // too large to be of use
				return nil, err
			}
		}
		return files, nil
	}
	return c, nil
}

// missing returns the files of a diff that its patch leaves out although their lines may
// have changed.
func missing(doc *diff.Document) (list []review.Skip) {
	for _, f := range doc.Files {
		if f.Kind == diff.Binary {
			list = append(list, review.Skip{Path: f.Path, Reason: review.SkippedBinary})
		} else if why := f.LeftOut(); why != "" && f.Kind != diff.Directory {
			list = append(list, review.Skip{Path: f.Path, Reason: review.SkippedUnread, Detail: why})
		}
	}
	if doc.Next != nil {
		list = append(list, review.Skip{Path: "…", Reason: review.SkippedLimit, Detail: "further files of a large change"})
	}
	return list
}
