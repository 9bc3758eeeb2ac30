package run

import (
	"fmt"

	"nofx.dev/shared/glob"
)

// badGlob returns why p is not a pattern of paths in a workspace, or "".
func badGlob(p string) string {
	if detail := BadPath(p); detail != "" {
		return detail
	}
	if detail := glob.Problem(p); detail != "" {
		return detail
	}
	for path := range glob.Alternatives(p) {
		if detail := BadPath(path); detail != "" {
			return fmt.Sprintf("its braces stand for %q, which %s", path, detail)
		}
	}
	return ""
}

// glob checks a pattern of paths in the workspace.
func (c *checker) glob(at, p string) {
	if c.open(p) {
		return
	}
	if detail := badGlob(p); detail != "" {
		c.add(at, detail)
	}
}
