package httpapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"nofx.dev/shared/review"
)

// gitHubHooks are the webhooks of GitHub.
var gitHubHooks = hooks{
	provider: review.GitHub, shape: commitShape,
	delivery: "X-GitHub-Delivery", event: "X-GitHub-Event", signature: "X-Hub-Signature-256",
	read: readGitHub,
}

// readGitHub reads an event of GitHub. A pull request is reviewed when it is opened or ready,
// or has a new head.
func readGitHub(event string, body []byte) (notice, error) {
	var e struct {
		Action      string
		Number      int
		PullRequest struct {
			Draft     bool
			UpdatedAt *time.Time `json:"updated_at"`
			Head      struct{ SHA string }
		} `json:"pull_request"`
		Repository struct {
			FullName string `json:"full_name"`
		}
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return notice{}, err
	}
	if event != "pull_request" {
		return notice{of: fmt.Sprintf("events %s start nothing", event)}, nil
	}
	n := notice{repository: e.Repository.FullName, pullRequest: e.Number, head: e.PullRequest.Head.SHA, draft: e.PullRequest.Draft, at: e.PullRequest.UpdatedAt}
	if !slices.Contains([]string{"opened", "synchronize", "reopened", "ready_for_review"}, e.Action) {
		n.of = fmt.Sprintf("action %s starts nothing", e.Action)
	}
	return n, nil
}

// bitbucketHooks are the webhooks of Bitbucket Cloud. A delivery that is tried again after
// an error keeps its request id.
var bitbucketHooks = hooks{
	provider: review.Bitbucket, shape: shortShape,
	delivery: "X-Request-UUID", event: "X-Event-Key", signature: "X-Hub-Signature",
	read: readBitbucket,
}

// readBitbucket reads an event of Bitbucket, which tells of a new head as of any other change
// of a pull request. A head that has a review gets no other.
func readBitbucket(event string, body []byte) (notice, error) {
	var e struct {
		PullRequest struct {
			ID        int
			State     string
			Draft     bool
			UpdatedOn *time.Time `json:"updated_on"`
			Source    struct {
				Commit struct{ Hash string }
			}
		}
		Repository struct {
			FullName string `json:"full_name"`
		}
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return notice{}, err
	}
	if !slices.Contains([]string{"pullrequest:created", "pullrequest:updated", "pullrequest:push"}, event) {
		return notice{of: fmt.Sprintf("events %s start nothing", event)}, nil
	}
	pr := e.PullRequest
	n := notice{repository: e.Repository.FullName, pullRequest: pr.ID, head: pr.Source.Commit.Hash, draft: pr.Draft, at: pr.UpdatedOn}
	if pr.State != "OPEN" {
		n.of = fmt.Sprintf("the pull request is %s", pr.State)
	}
	return n, nil
}
