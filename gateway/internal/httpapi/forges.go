package httpapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"nofx.dev/shared/review"
)

// gitHubHooks are the webhooks of GitHub.
var gitHubHooks = hooks{
	provider: review.GitHub, shape: commitShape,
	delivery: "X-GitHub-Delivery", event: "X-GitHub-Event", signature: "X-Hub-Signature-256",
	read: readGitHub,
}

// readGitHub returns what an event of GitHub tells: a pull request that is opened, ready or at
// a new head is to be reviewed, and a thread is resolved or not. An error reports a body that
// is no JSON of an event.
func readGitHub(event string, body []byte) (notice, error) {
	type user struct{ Login string }
	var e struct {
		Action      string
		Number      int
		PullRequest struct {
			Number    int
			Draft     bool
			UpdatedAt *time.Time `json:"updated_at"`
			Head      struct{ SHA string }
			User      user
		} `json:"pull_request"`
		Thread struct {
			NodeID   string `json:"node_id"`
			Comments []struct{ ID int64 }
		}
		Repository struct {
			FullName string `json:"full_name"`
		}
		Sender user
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return notice{}, err
	}
	n := notice{repository: e.Repository.FullName}
	reacts := false
	switch event {
	case "pull_request":
		n.pullRequest, n.head, n.draft, n.at = e.Number, e.PullRequest.Head.SHA, e.PullRequest.Draft, e.PullRequest.UpdatedAt
		reacts = slices.Contains([]string{"opened", "synchronize", "reopened", "ready_for_review"}, e.Action)
	case "pull_request_review_thread":
		n.pullRequest = e.PullRequest.Number
		n.settled = &settled{thread: e.Thread.NodeID, resolved: e.Action == "resolved", by: somebody(e.Sender.Login), author: e.Sender == e.PullRequest.User}
		if len(e.Thread.Comments) > 0 {
			n.settled.comment = strconv.FormatInt(e.Thread.Comments[0].ID, 10)
		}
		reacts = slices.Contains([]string{"resolved", "unresolved"}, e.Action)
	default:
		n.of = fmt.Sprintf("nothing is done about events %s", event)
		return n, nil
	}
	if !reacts {
		n.of = fmt.Sprintf("nothing is done about action %s", e.Action)
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
	type user struct {
		Nickname  string
		AccountID string `json:"account_id"`
		UUID      string
	}
	var e struct {
		PullRequest struct {
			ID        int
			State     string
			Draft     bool
			Author    user
			UpdatedOn *time.Time `json:"updated_on"`
			Source    struct {
				Commit struct{ Hash string }
			}
		}
		Comment    struct{ ID int64 }
		Repository struct {
			FullName string `json:"full_name"`
		}
		Actor user
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return notice{}, err
	}
	pr := e.PullRequest
	n := notice{repository: e.Repository.FullName, pullRequest: pr.ID}
	switch event {
	case "pullrequest:created", "pullrequest:updated", "pullrequest:push":
		n.head, n.draft, n.at = pr.Source.Commit.Hash, pr.Draft, pr.UpdatedOn
		if pr.State != "OPEN" {
			n.of = fmt.Sprintf("the pull request is %s", pr.State)
		}
	case "pullrequest:comment_resolved", "pullrequest:comment_reopened":
		id := strconv.FormatInt(e.Comment.ID, 10) // a thread has the id of its first comment
		n.settled = &settled{
			thread: id, comment: id, resolved: event == "pullrequest:comment_resolved",
			by: somebody(e.Actor.Nickname, e.Actor.AccountID, e.Actor.UUID), accounts: []string{e.Actor.AccountID, e.Actor.UUID}, author: e.Actor.UUID != "" && e.Actor.UUID == pr.Author.UUID,
		}
	default:
		n.of = fmt.Sprintf("nothing is done about events %s", event)
	}
	return n, nil
}

// personName is what a name of somebody on a forge may be to be shown.
var personName = regexp.MustCompile(`^[\p{L}\p{N}{][\p{L}\p{N} ._:{}\[\]-]{0,99}$`)

// somebody returns the first of the names that can be shown.
func somebody(names ...string) string {
	for _, name := range names {
		if personName.MatchString(name) {
			return name
		}
	}
	return "somebody"
}
