package codehost

import (
	"maps"
	"testing"

	"nofx.dev/shared/fault"
)

// TestRules checks that only what a rule covers is sent. The session has no server: a call
// that got that far would panic.
func TestRules(t *testing.T) {
	t.Parallel()
	const sha = "0123456789abcdef0123456789abcdef01234567"
	cfg := Config{Repository: "octo/demo", Number: 7}
	type args = map[string]any
	with := func(more args) args {
		all := args{"owner": "octo", "repo": "demo", "pullNumber": 7}
		maps.Copy(all, more)
		return all
	}
	for _, tt := range []struct {
		name  string
		write bool
		tool  string
		args  args
		want  bool
	}{
		{"read", false, "pull_request_read", with(args{"method": "get"}), true},
		{"read a page", false, "pull_request_read", with(args{"method": "get_files", "page": 2, "perPage": 100}), true},
		{"read what is not needed", false, "pull_request_read", with(args{"method": "get_comments"}), false},
		{"read another number", false, "pull_request_read", with(args{"method": "get", "pullNumber": 8}), false},
		{"read another repository", false, "pull_request_read", with(args{"method": "get", "repo": "other"}), false},
		{"read another owner", false, "pull_request_read", with(args{"method": "get", "owner": "evil"}), false},
		{"read a file", false, "get_file_contents", args{"owner": "octo", "repo": "demo", "path": "a.go", "sha": sha}, true},
		{"read a file of a branch", false, "get_file_contents", args{"owner": "octo", "repo": "demo", "path": "a.go", "ref": "main"}, false},
		{"read a file at a branch", false, "get_file_contents", args{"owner": "octo", "repo": "demo", "path": "a.go", "sha": "main"}, false},
		{"write with the reader", false, "pull_request_review_write", with(args{"method": "create", "commitID": sha}), false},
		{"create", true, "pull_request_review_write", with(args{"method": "create", "commitID": sha}), true},
		{"create at no commit", true, "pull_request_review_write", with(args{"method": "create"}), false},
		{"create and submit", true, "pull_request_review_write", with(args{"method": "create", "commitID": sha, "event": "COMMENT"}), false},
		{"create and approve", true, "pull_request_review_write", with(args{"method": "create", "commitID": sha, "event": "APPROVE"}), false},
		{"submit", true, "pull_request_review_write", with(args{"method": "submit_pending", "event": "COMMENT", "body": "x"}), true},
		{"request changes", true, "pull_request_review_write", with(args{"method": "submit_pending", "event": "REQUEST_CHANGES", "body": "x"}), true},
		{"approve", true, "pull_request_review_write", with(args{"method": "submit_pending", "event": "APPROVE", "body": "x"}), false},
		{"submit without event", true, "pull_request_review_write", with(args{"method": "submit_pending", "body": "x"}), false},
		{"event that is no text", true, "pull_request_review_write", with(args{"method": "submit_pending", "event": []string{"COMMENT"}, "body": "x"}), false},
		{"unresolve", true, "pull_request_review_write", with(args{"method": "unresolve_thread", "threadId": "x"}), false},
		{"comment on a line", true, "add_comment_to_pending_review", with(args{"path": "a", "body": "b", "subjectType": "LINE", "line": 1, "side": "LEFT"}), true},
		{"comment on a file", true, "add_comment_to_pending_review", with(args{"path": "a", "body": "b", "subjectType": "FILE"}), true},
		{"comment on a file's line", true, "add_comment_to_pending_review", with(args{"path": "a", "body": "b", "subjectType": "FILE", "line": 1}), false},
		{"comment on line 0", true, "add_comment_to_pending_review", with(args{"path": "a", "body": "b", "subjectType": "LINE", "line": 0, "side": "LEFT"}), false},
		{"reply", true, "add_reply_to_pull_request_comment", with(args{"commentId": int64(5), "body": "b"}), true},
		{"react", true, "add_reply_to_pull_request_comment", with(args{"commentId": int64(5), "reaction": "heart"}), false},
		{"merge", true, "merge_pull_request", with(nil), false},
		{"no tool", true, "", nil, false},
	} {
		s := &session{rules: githubServer{}.rules(cfg, tt.write)}
		got := false
		for _, r := range s.rules {
			got = got || r.allows(tt.tool, tt.args)
		}
		if got != tt.want {
			t.Errorf("%s: allowed = %t, want %t", tt.name, got, tt.want)
		}
		if tt.want {
			continue
		}
		if _, err := s.call(t.Context(), tt.tool, tt.args); fault.KindOf(err) != fault.Forbidden {
			t.Errorf("%s: call() = %v, want Forbidden", tt.name, err)
		}
	}
}

func TestGitHubHost(t *testing.T) {
	t.Parallel()
	for api, want := range map[string]string{
		"https://api.github.com":        "",
		"https://git.example/api/v3/":   "GITHUB_HOST=https://git.example",
		"https://api.octo.ghe.com":      "GITHUB_HOST=https://octo.ghe.com",
		"http://127.0.0.1:4040/api/v3":  "GITHUB_HOST=http://127.0.0.1:4040",
		"https://api.ghe.com.evil.test": "",
	} {
		_, env := githubServer{}.command(Config{API: api, Token: "t"}, "/d", true)
		got := ""
		if len(env) > 2 {
			got = env[2]
		}
		if got != want {
			t.Errorf("command(%s) has %q, want %q", api, got, want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text string
		kind fault.Kind
		code string
		wait string
	}{
		{"failed to get pull request: GitHub secondary rate limit exceeded. Retry after 30s.", fault.RateLimited, "rate-limited", "30s"},
		{"failed to get pull request: GitHub API rate limit exceeded. Retry after 12m34s.", fault.RateLimited, "rate-limited", "12m34s"},
		{"GET https://x/api: 403 You have exceeded a secondary rate limit [retry after 29s]", fault.RateLimited, "rate-limited", "29s"},
		{"GET https://x/api: 403 API rate limit of 5000 still exceeded until x, not making remote request. [rate reset in 3m]", fault.RateLimited, "rate-limited", "3m0s"},
		{"GitHub secondary rate limit exceeded. Wait before retrying.", fault.RateLimited, "rate-limited", "0s"},
		{"Request failed with status code 429", fault.RateLimited, "rate-limited", "0s"},
		{"failed: GET https://api.github.com/repos/o/r/pulls/404: 406 Sorry, the diff exceeded the maximum number of files (300). []", fault.Invalid, "diff-too-large", "0s"},
		{"failed: GET https://api.github.com/repos/o/r/pulls/404: 502 Server Error []", fault.Unavailable, "forge-error", "0s"},
		{"non-200 OK status code: 502 Bad Gateway body: \"\"", fault.Unavailable, "forge-error", "0s"},
		{"Failed to get pull request: Request failed with status code 404", fault.NotFound, "not-found", "0s"},
		{"failed: GET https://x: 401 Bad credentials []", fault.Unauthenticated, "unauthenticated", "0s"},
		{"failed: GET https://x: 403 Resource not accessible by integration []", fault.Forbidden, "forbidden", "0s"},
		{"User can only have one pending review per pull request", fault.Conflict, "pending-review", "0s"},
		{"The latest review, found at https://x is not pending", fault.Conflict, "not-pending", "0s"},
		{"Could not resolve to a PullRequest with the number of 9.", fault.NotFound, "not-found", "0s"},
		{"Pull request review thread line must be part of the diff", fault.Invalid, "comment-refused", "0s"},
		{"something new", fault.Unavailable, "forge-error", "0s"},
	} {
		got := judge(tt.text)
		if got.Kind != tt.kind || got.Code != tt.code || got.RetryAfter.String() != tt.wait {
			t.Errorf("judge(%q) = %s, %s, %s, want %s, %s, %s", tt.text, got.Kind, got.Code, got.RetryAfter, tt.kind, tt.code, tt.wait)
		}
	}
}
