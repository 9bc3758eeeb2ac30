// Package review has the nouns of the review gate that gateway and worker share: the
// review of a change, its findings, and the policy that decides about them (REVIEW.md).
// It does no I/O.
package review
