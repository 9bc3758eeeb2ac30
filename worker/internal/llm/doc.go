// Package llm asks language models.
//
// A [Model] answers a [Request]. The providers, each in a package of its own over its
// vendor's library, make one try through a [Guarded] client and say what became of it; a
// [Client] stands before them and adds what is the same for all: a span and metrics for
// each try, tries again after a pause where that can help, then another model, the
// [Budget] of whoever asks, which lies within each [Ledger] that others use too, and the
// price.
//
// A request tells apart what we say and what we show: text of a workspace, a diff or
// a person nobody vouches for is an untrusted [Part], which stands between delimiters
// that nobody could have guessed ([Request.Prompt]). A model has no tools.
//
// Errors are fault.Errors whose details are for people and hold neither keys, nor
// prompts, nor what the other side wrote.
package llm
