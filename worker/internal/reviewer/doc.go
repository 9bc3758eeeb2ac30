// Package reviewer reviews a change with a model (REVIEW.md).
//
// A diff becomes files, hunks and numbered lines; chunks of them are shown to a model,
// whose answers are checked against the lines that they name; what is left is matched with
// the findings of earlier reviews, and a policy decides. Nothing here reads or writes
// anything but through the interfaces that are declared here, and no function has both a
// model and a forge: whoever talks to the one holds no credential of the other.
//
// Start at [Reviewer.Review]. It takes its steps in the order of the files diff.go, choose.go
// and injection.go, chunk.go, ask.go, anchor.go and finding.go, verify.go; then what
// became of earlier findings (gone.go and package review), and the plan and the documents
// (compose.go, document.go). [Post] carries out a plan.
//
// All that a change brings is hostile: its text is data for a model, whose answer is data
// too. An answer can add findings, the second pass can take them away where nothing tries
// to steer it, and neither has a say in the verdict.
package reviewer
