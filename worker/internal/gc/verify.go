package gc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
)

// Verification is what a comparison of rows and objects found.
type Verification struct {
	Deep     bool  `json:"deep"`
	Objects  Count `json:"objects"`  // that have a row
	Missing  Count `json:"missing"`  // that are not in storage
	Corrupt  Count `json:"corrupt"`  // of another size than their row says, or with Deep of another SHA-256
	Unbacked int64 `json:"unbacked"` // blobs whose object has no row
	Orphans  Count `json:"orphans"`  // objects without a row
	Items
}

// Sound reports whether every row has its bytes.
func (v Verification) Sound() bool { return v.Missing.N+v.Corrupt.N+v.Unbacked == 0 }

const (
	objectsAtOnce = 500
	blobsAtOnce   = 2000
	looks         = 8 // objects looked at side by side
)

// Verify compares the rows of the tenant of the job's claim with storage: each object is
// there in its size, and with deep has its digest; each blob has an object; and what
// else is in storage. It changes nothing, except that an object that is
// lost is condemned, as any reader does, so that a later checkpoint stores its content again.
func Verify(ctx context.Context, j Job, deep bool) (Verification, error) {
	v := Verification{Deep: deep, Items: Items{Items: []Item{}}}
	if err := j.verifyObjects(ctx, &v); err != nil {
		return v, err
	}
	for after := ""; ; {
		unbacked, next, err := j.DB.UnbackedBlobs(ctx, j.Claim.TenantID, after, blobsAtOnce)
		if err != nil {
			return v, err
		}
		for _, digest := range unbacked {
			v.Unbacked++
			v.add(Item{Kind: "blob", ID: digest, What: "without object"})
		}
		if after = next; after == "" {
			break
		}
	}
	j.say("%d blobs whose object has no row", v.Unbacked)
	for _, kind := range kinds {
		err := j.Blobs.List(ctx, blob.Prefix(j.Claim.TenantID, kind), func(page []blob.Listed) error {
			orphans, err := j.withoutRow(ctx, page, func(blob.Listed) bool { return true })
			for _, o := range orphans {
				v.Orphans.add(o.Size)
				v.add(Item{Kind: "orphan", ID: o.Key, Bytes: o.Size, What: "without row"})
			}
			return err
		})
		if err != nil {
			return v, fmt.Errorf("objects without a row: %w", err)
		}
	}
	j.say("%d objects without a row", v.Orphans.N)
	for kind, n := range map[string]int64{"missing": v.Missing.N, "corrupt": v.Corrupt.N, "unbacked": v.Unbacked, "orphan": v.Orphans.N} {
		j.Metrics.StorageFindings.Add(float64(n), kind)
	}
	return v, nil
}

func (j Job) verifyObjects(ctx context.Context, v *Verification) error {
	for after := ""; ; {
		list, err := j.DB.Objects(ctx, j.Claim.TenantID, after, objectsAtOnce)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return nil
		}
		after = list[len(list)-1].Key
		var mu sync.Mutex
		g, looking := errgroup.WithContext(ctx)
		g.SetLimit(looks)
		for _, o := range list {
			g.Go(func() error {
				wrong, err := j.look(looking, o, v.Deep)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				v.Objects.add(o.Bytes)
				switch wrong {
				case "":
					return nil
				case missing:
					v.Missing.add(o.Bytes)
				default:
					v.Corrupt.add(o.Bytes)
				}
				v.add(Item{Kind: "object", ID: o.Key, Bytes: o.Bytes, What: wrong})
				j.say("%s %s", o.Key, wrong)
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		j.say("looked at %d objects of %d bytes: %d missing, %d corrupt", v.Objects.N, v.Objects.Bytes, v.Missing.N, v.Corrupt.N)
	}
}

const missing = "missing"

// look returns what is wrong with an object, or "". An upload that nobody has verified may
// be anything, and what was condemned may be gone.
func (j Job) look(ctx context.Context, o postgres.Object, deep bool) (string, error) {
	if o.Kind == "upload" {
		return "", nil
	}
	wrong, err := j.compare(ctx, o, deep)
	if errors.Is(err, fault.Gone) {
		wrong, err = missing, nil
	}
	if err != nil || wrong == "" {
		return "", err
	}
	// It may have been deleted, or have been condemned before, while it was looked at.
	if live, err := j.DB.IsLive(ctx, j.Claim.TenantID, o.Key); err != nil || !live {
		return "", err
	}
	return wrong, j.DB.CondemnObject(ctx, j.Claim.TenantID, o.Key)
}

func (j Job) compare(ctx context.Context, o postgres.Object, deep bool) (wrong string, err error) {
	info, err := j.Blobs.Stat(ctx, o.Key)
	if err != nil {
		return "", err
	}
	if info.Size != o.Bytes {
		return fmt.Sprintf("corrupt: %d bytes instead of %d", info.Size, o.Bytes), nil
	}
	if !deep {
		return "", nil
	}
	r, err := j.Blobs.Open(ctx, o.Key, 0, -1)
	if err != nil {
		return "", err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	if sum := h.Sum(nil); [32]byte(sum) != [32]byte(o.SHA256) {
		return "corrupt: its digest is " + hex.EncodeToString(sum), nil
	}
	return "", nil
}
