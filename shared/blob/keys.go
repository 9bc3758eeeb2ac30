package blob

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/google/uuid"
)

// The keys of every object we write. A tenant's objects share a prefix and are
// never shared with another tenant: a dedupe hit would tell one what another
// holds. Ids are written as 32 hex digits.

// BlobKey returns the key of content that is kept as it is: t/<tenant>/blob/<aa>/<sha256>.
func BlobKey(tenant uuid.UUID, sha256 [32]byte) string { return digestKey(tenant, "blob", sha256) }

// CopyKey returns the key of one copy of content that is kept as it is:
// t/<tenant>/blob/<aa>/<sha256>-<copy>, or the BlobKey for copy 0. Whoever stores content
// makes a copy of its own ([NewCopy]): a request that deletes an object may arrive late, so
// that a key must not be used again once the collection has begun to delete it.
func CopyKey(tenant uuid.UUID, sha256 [32]byte, n int64) string {
	if n == 0 {
		return BlobKey(tenant, sha256)
	}
	return BlobKey(tenant, sha256) + "-" + strconv.FormatInt(n, 10)
}

// NewCopy returns the number of a new copy of content.
func NewCopy() int64 { return 1 + rand.Int64N(1<<62) }

// TenantPrefix returns what the keys of a tenant's objects begin with.
func TenantPrefix(tenant uuid.UUID) string { return "t/" + id(tenant) + "/" }

// Prefix returns what the keys of a tenant's objects of one kind begin with.
func Prefix(tenant uuid.UUID, kind string) string { return TenantPrefix(tenant) + kind + "/" }

// PackKey returns the key of the small contents of one checkpoint together, addressed
// by the digest of the whole pack: t/<tenant>/pack/<aa>/<sha256>.
func PackKey(tenant uuid.UUID, sha256 [32]byte) string { return digestKey(tenant, "pack", sha256) }

// LogKey returns the key of the n-th chunk of the log that a step wrote under one fence. A log is not
// addressed by its content, so the fence keeps a worker that lost its lease from
// overwriting its successor's.
func LogKey(tenant, run, step uuid.UUID, fence int64, n int) string {
	return fmt.Sprintf("t/%s/log/%s/%s/%d-%d", id(tenant), id(run), id(step), fence, n)
}

// DiffKey returns the key of what lies between two checkpoints, by the digest of the object
// and the number of its diff ([NewCopy]): t/<tenant>/diff/<aa>/<sha256>-<copy>.<form>, where
// form is json or patch. No two diffs share an object.
func DiffKey(tenant uuid.UUID, sha256 [32]byte, n int64, form string) string {
	return digestKey(tenant, "diff", sha256) + "-" + strconv.FormatInt(n, 10) + "." + form
}

// UploadKey returns the key at which a client puts the bytes of an artifact that nobody has
// verified yet: t/<tenant>/upload/<artifact>. What is verified is copied to its
// BlobKey, which only our own code ever writes.
func UploadKey(tenant, artifact uuid.UUID) string {
	return fmt.Sprintf("t/%s/upload/%s", id(tenant), id(artifact))
}

func digestKey(tenant uuid.UUID, kind string, sha256 [32]byte) string {
	h := hex.EncodeToString(sha256[:])
	return "t/" + id(tenant) + "/" + kind + "/" + h[:2] + "/" + h
}

func id(u uuid.UUID) string { return hex.EncodeToString(u[:]) }
