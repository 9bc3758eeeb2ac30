package integration_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// notBuilt are the security requirements, S1 to S42, whose subject is not built yet.
var notBuilt = map[int]string{
	19: "rotation of keys", 20: "shredding of sessions", 22: "expiry of sessions",
	38: "images and chart", 39: "provenance of images",
}

// TestSecurityRequirementsHaveTests checks that each requirement has a test with its number
// in its name, as in TestS08_Catalogue.
func TestSecurityRequirementsHaveTests(t *testing.T) {
	t.Parallel()
	name := regexp.MustCompile(`(?m)^func TestS(\d\d)_\w+\(t \*testing\.T\)`)
	have := map[int]int{}
	eachSource(t, func(path string, source []byte) {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range name.FindAllSubmatch(source, -1) {
				n, _ := strconv.Atoi(string(m[1]))
				have[n]++
			}
		}
	})
	for n := 1; n <= 42; n++ {
		if what, pending := notBuilt[n]; pending == (have[n] > 0) {
			t.Errorf("S%d has %d tests, and is not built: %v (%s); want tests, or a row of notBuilt", n, have[n], pending, what)
		}
	}
}

// TestS21_Randomness checks that what guards secrets takes its random numbers from the
// system: no package of these imports math/rand.
func TestS21_Randomness(t *testing.T) {
	t.Parallel()
	guards := []string{"gateway/internal/identity/", "gateway/audit/", "gateway/cmd/gateway/", "shared/seal/", "worker/internal/sandbox/", "worker/internal/codehost/"}
	seen := 0
	eachSource(t, func(path string, source []byte) {
		if strings.HasSuffix(path, "_test.go") || !slices.ContainsFunc(guards, func(g string) bool { return strings.HasPrefix(path, g) }) {
			return
		}
		seen++
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			if strings.HasPrefix(i.Path.Value, `"math/rand`) {
				t.Errorf("%s imports %s, want crypto/rand", path, i.Path.Value)
			}
		}
	})
	if seen < 10 {
		t.Errorf("%d files were looked at, want those of %v", seen, guards)
	}
}

// eachSource calls look with each Go file of the repository, by its path in it.
func eachSource(t *testing.T, look func(path string, source []byte)) {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil {
			look(filepath.ToSlash(rel), source)
		}
		return err
	})
	if err != nil {
		t.Fatal(fmt.Errorf("read the sources: %w", err))
	}
}
