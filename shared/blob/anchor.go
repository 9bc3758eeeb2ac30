package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
)

// Anchor is the newest row of a tenant's audit log on a day, kept beside the database, so
// that rows that are cut off the end of the log are missed.
type Anchor struct {
	Day  string    `json:"day"` // UTC, as 2026-01-31
	Seq  int64     `json:"seq"`
	Hash string    `json:"hash"` // in hex digits
	At   time.Time `json:"at"`
}

// AnchorKey returns the key of the anchor of a day: t/<tenant>/audit/<day>.json.
func AnchorKey(tenant uuid.UUID, day string) string { return Prefix(tenant, "audit") + day + ".json" }

// maxAnchor is the size in bytes of the largest anchor that is read.
const maxAnchor = 1 << 10

// PutAnchor stores an anchor, unless its day has one, which stays as it is, and returns the
// anchor of the day.
func (s *Store) PutAnchor(ctx context.Context, tenant uuid.UUID, a Anchor) (Anchor, error) {
	key := AnchorKey(tenant, a.Day)
	if there, err := s.anchor(ctx, key); !errors.Is(err, fault.Gone) {
		return there, err
	}
	body, err := json.Marshal(a)
	if err != nil {
		return a, fmt.Errorf("anchor of %s: %w", a.Day, err)
	}
	sum := sha256.Sum256(body)
	return a, s.Put(ctx, key, bytes.NewReader(body), int64(len(body)), PutOptions{ContentType: "application/json", SHA256: &sum})
}

// Anchors returns the newest anchors of a tenant, at most so many, the newest first.
func (s *Store) Anchors(ctx context.Context, tenant uuid.UUID, most int) ([]Anchor, error) {
	var keys []string
	err := s.List(ctx, Prefix(tenant, "audit"), func(page []Listed) error {
		for _, o := range page {
			if strings.HasSuffix(o.Key, ".json") && o.Size <= maxAnchor {
				keys = append(keys, o.Key)
			}
		}
		keys = keys[max(0, len(keys)-most):] // days sort by name
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(keys)
	anchors := make([]Anchor, 0, len(keys))
	for _, key := range keys {
		a, err := s.anchor(ctx, key)
		if err != nil {
			return nil, err
		}
		anchors = append(anchors, a)
	}
	return anchors, nil
}

func (s *Store) anchor(ctx context.Context, key string) (a Anchor, err error) {
	r, err := s.Open(ctx, key, 0, -1)
	if err != nil {
		return a, err
	}
	defer r.Close()
	body, err := io.ReadAll(io.LimitReader(r, maxAnchor))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(body, &a); err != nil || a.Day+".json" != path.Base(key) {
		return a, fault.New(fault.Conflict, "object-corrupt", "the anchor %s of the audit log is not what was stored", path.Base(key)).Because(err)
	}
	return a, nil
}
