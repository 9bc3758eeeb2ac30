package checkpoint

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"nofx.dev/shared/tree"
)

// keptEntries is how many entries of directories a worker keeps, about 100 bytes each.
const keptEntries = 200_000

// nodes keeps the directories that merges have read last: those of a base and of a target
// are read again with each branch that is merged. Restores do not use it: they have to
// notice what storage has lost. It is safe for concurrent use.
type nodes struct {
	read func(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error)
	most int // entries

	mu      sync.Mutex
	entries int // of recent
	recent  map[node][]tree.Entry
	old     map[node][]tree.Entry // goes when half of what may be kept is recent
}

// node is a directory. What one tenant has tells another nothing.
type node struct {
	tenant uuid.UUID
	digest tree.Digest
}

// get returns the entries of each of the directories, which nobody may change.
func (n *nodes) get(ctx context.Context, tenant uuid.UUID, digests []tree.Digest) (map[tree.Digest][]tree.Entry, error) {
	found := make(map[tree.Digest][]tree.Entry, len(digests))
	var unknown []tree.Digest
	n.mu.Lock()
	for _, d := range digests {
		entries, ok := n.recent[node{tenant, d}]
		if !ok {
			if entries, ok = n.old[node{tenant, d}]; ok {
				n.keep(node{tenant, d}, entries)
			}
		}
		if !ok {
			unknown = append(unknown, d)
			continue
		}
		found[d] = entries
	}
	n.mu.Unlock()
	if len(unknown) == 0 {
		return found, nil
	}
	read, err := n.read(ctx, tenant, unknown)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for d, entries := range read {
		n.keep(node{tenant, d}, entries)
		found[d] = entries
	}
	return found, nil
}

// keep adds a directory to the recent ones. The caller holds mu.
func (n *nodes) keep(at node, entries []tree.Entry) {
	size := 1 + len(entries)
	if _, ok := n.recent[at]; ok || size > n.most/2 {
		return
	}
	if n.recent == nil || n.entries+size > n.most/2 {
		n.old, n.recent, n.entries = n.recent, map[node][]tree.Entry{}, 0
	}
	n.recent[at] = entries
	n.entries += size
}
