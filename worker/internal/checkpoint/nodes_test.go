package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"nofx.dev/shared/tree"
)

// Directories that were read lately are not read again, for the tenant that has them, and
// no more of them are kept than may be.
func TestNodes(t *testing.T) {
	t.Parallel()
	reads := 0
	n := nodes{most: 40, read: func(_ context.Context, _ uuid.UUID, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
		found := map[tree.Digest][]tree.Entry{}
		for _, d := range digests {
			if d == tree.Sum([]byte("lost")) {
				return nil, errors.New("lost")
			}
			found[d] = make([]tree.Entry, 4)
			if d == tree.Sum([]byte("large")) {
				found[d] = make([]tree.Entry, 100)
			}
			reads++
		}
		return found, nil
	}}
	mine, other := uuid.New(), uuid.New()
	for _, c := range []struct {
		tenant uuid.UUID
		names  []string
		want   int // reads
	}{
		{mine, []string{"a", "b"}, 2},
		{mine, []string{"a", "b", "c"}, 1},
		{mine, []string{"c", "a"}, 0},
		{other, []string{"a"}, 1},
		{mine, []string{"large"}, 1},
		{mine, []string{"large"}, 1}, // it is never kept
		{mine, []string{"a"}, 0},
		{mine, []string{"d", "e", "f", "g"}, 4}, // a becomes old
		{mine, []string{"a"}, 0},                // and recent again
		{mine, []string{"h", "i", "j", "k", "l", "m", "n", "o"}, 8},
		{mine, []string{"a"}, 1},
	} {
		var digests []tree.Digest
		for _, name := range c.names {
			digests = append(digests, tree.Sum([]byte(name)))
		}
		reads = 0
		found, err := n.get(t.Context(), c.tenant, digests)
		if err != nil || len(found) != len(digests) || reads != c.want {
			t.Errorf("get(%v) = %d directories with %d read, %v, want %d with %d read", c.names, len(found), reads, err, len(digests), c.want)
		}
		kept := 0
		for _, half := range []map[node][]tree.Entry{n.recent, n.old} {
			for _, entries := range half {
				kept += 1 + len(entries)
			}
		}
		if kept > n.most {
			t.Errorf("after get(%v) entries for %d are kept, want %d at most", c.names, kept, n.most)
		}
	}
	if _, err := n.get(t.Context(), mine, []tree.Digest{tree.Sum([]byte("a")), tree.Sum([]byte("lost"))}); fmt.Sprint(err) != "lost" {
		t.Errorf("get(lost) = %v, want the error of the source", err)
	}
}
