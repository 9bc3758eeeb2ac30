package retention

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
)

// heads is the number of audit logs that are anchored at once.
const heads = 200

// anchors stores the newest row of each audit log that has grown since a day before today
// beside the database. Two workers that meet at one store the same, or the second one leaves
// what the first has stored.
func (c *Cleaner) anchors(ctx context.Context) error {
	today := time.Now().UTC()
	for after := uuid.Nil; ; {
		list, err := c.DB.AuditHeads(ctx, today, after, heads)
		if err != nil {
			return err
		}
		for _, h := range list {
			a, err := c.Blobs.PutAnchor(ctx, h.TenantID, blob.Anchor{Day: today.Format(time.DateOnly), Seq: h.Seq, Hash: hex.EncodeToString(h.Hash), At: h.At.UTC()})
			if err != nil {
				return fmt.Errorf("anchor the audit log of tenant %s: %w", h.TenantID, err)
			}
			h.Seq = a.Seq
			if err := c.DB.AuditAnchored(ctx, h, today); err != nil {
				return err
			}
			after = h.TenantID
		}
		if len(list) < heads {
			return nil
		}
	}
}
