// Package run holds the nouns that gateway and worker share: plans, runs,
// steps, attempts, events, gates, checkpoints, and the state machine they obey.
//
// It does no I/O. A [Plan] is what a client posts; [Plan.Normalise] fills in
// defaults and says precisely what is wrong. The machines of state.go mirror
// the rows of nofx.transition, which are the truth; a test of shared/postgres
// holds the two together. Tools are known by name here, because the gateway
// refuses what no worker could run; what a tool does is the worker's own. The
// templates in their inputs are checked and resolved in template.go, so that both
// processes read them alike.
//
// Start at plan.go, then state.go.
package run
