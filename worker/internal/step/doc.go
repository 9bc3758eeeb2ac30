// Package step runs attempts at steps, from the wake-up to the finish.
//
// River brings wake-ups to a [Runner]. An attempt claims the step of one under a new
// fence (postgres.Claim), takes what its dependencies left as the checkpoint that it
// starts from (start.go), runs the tool, saves what that left as another checkpoint
// (outcome.go) and finishes, all of which the database refuses once the lease is lost.
// Where it failed, retry.go says whether the step is tried again; while storage or the
// database is away, storage.go says how long what a tool came to is kept. The finish may
// claim a successor, which the same job goes on with. Nothing here decides a state: it
// says what happened, and the database answers whether that counts.
//
// Start at runner.go, then attempt.go.
package step
