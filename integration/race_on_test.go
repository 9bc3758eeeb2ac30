//go:build race

package integration_test

// raced: the programs under test get the race detector when the tests have it.
const raced = true
