package audit

import (
	"fmt"
	"strings"

	"nofx.dev/gateway/api"
)

// Chain verifies a log whose rows come one by one, the newest first. Make it with [NewChain].
type Chain struct {
	tenant  string
	anchors map[int64]api.AuditAnchor // by seq
	newest  int64                     // of the anchors
	last    *api.AuditRow             // that was added
	rows    int64
	broken  *Break
}

// Break is the first row of a log that is not what was written.
type Break struct {
	Seq  int64
	What string // is wrong with it
}

// Error says where a log is broken.
func (b *Break) Error() string {
	return fmt.Sprintf("the audit log is broken at row %d: %s", b.Seq, b.What)
}

// NewChain returns a chain for the log of a tenant, which is compared with anchors.
func NewChain(tenant string, anchors []api.AuditAnchor) *Chain {
	c := &Chain{tenant: tenant, anchors: map[int64]api.AuditAnchor{}}
	for _, a := range anchors {
		c.anchors[a.Seq] = a
		c.newest = max(c.newest, a.Seq)
	}
	return c
}

// found notes what is wrong with a row, unless an earlier row is known to be wrong.
func (c *Chain) found(seq int64, format string, args ...any) {
	if c.broken == nil || seq <= c.broken.Seq {
		c.broken = &Break{seq, fmt.Sprintf(format, args...)}
	}
}

// Add verifies the next older row.
func (c *Chain) Add(r api.AuditRow) {
	switch newer := c.last; {
	case newer == nil:
		c.ends(r.Seq)
	case r.Seq != newer.Seq-1:
		c.found(r.Seq+1, "it is missing")
	case newer.PrevHash != r.Hash:
		c.found(newer.Seq, "it does not follow the row before it")
	}
	if hash, err := Hash(c.tenant, r); err != nil {
		c.found(r.Seq, "%v", err)
	} else if hash != r.Hash {
		c.found(r.Seq, "it was changed")
	}
	if a, ok := c.anchors[r.Seq]; ok && a.Hash != r.Hash {
		c.found(r.Seq, "it is not the row whose hash was stored on %s", a.Day)
	}
	c.last = &r
	c.rows++
}

// ends verifies that the newest row is not older than what was stored.
func (c *Chain) ends(seq int64) {
	if seq < c.newest {
		c.found(seq+1, "it is missing; on %s the log had %d rows", c.anchors[c.newest].Day, c.newest)
	}
}

// End returns the number of rows and, once all were added, the first that is not what was
// written, as a [*Break].
func (c *Chain) End() (rows int64, err error) {
	switch {
	case c.last == nil:
		c.ends(0)
	case c.last.Seq != 1:
		c.found(1, "it is missing")
	case strings.Trim(c.last.PrevHash, "0") != "":
		c.found(1, "it follows another row")
	}
	if c.broken != nil {
		return c.rows, c.broken
	}
	return c.rows, nil
}
