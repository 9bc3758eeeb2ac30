// Package codehost reads and writes pull requests through the MCP servers of their forges
// (REVIEW.md §7).
//
// A [GitHub] or [Bitbucket] is one pull request, seen by one account of ours. It has two
// sessions with the server: one that reads, and one that writes, which is opened with the
// first write. Each session has rules: a call that none of them covers, by its tool and by
// the values of its arguments, is refused before it is sent, so that no mistake approves or
// merges anything, or writes to another pull request. What servers announce is held against
// the rules when a session is opened, and may not change after that.
//
// What no server offers goes to the forge's REST API with the same credential: the status
// of a commit, the comments of a draft, a review in one go.
package codehost
