// Package step is the worker: it takes steps, runs their tools and records what
// came of them.
//
// River brings wake-ups. An [attempt] claims the step of one under a new fence
// (postgres.Claim), brings the workspace to where its dependencies left it, runs
// the tool, saves the workspace and finishes, all of which the database refuses
// once the lease is lost. The [keeper] renews the leases of the whole process in
// one statement and cancels attempts whose lease is gone; the sweeper moves what
// other, dead workers left behind and what waited for a time to come. Nothing
// here decides a state: it says what happened, and the database answers whether
// that counts.
//
// Start at worker.go, then attempt.go.
package step
