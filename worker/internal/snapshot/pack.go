package snapshot

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/tree"
)

// A pack is the zstd frames of its content, one behind the other and each for
// itself, so that one range read serves one file, with those of directories last; then its
// index, from which the blob rows could be made again. The index is a skippable frame, which
// makes the whole a valid zstd stream. Another skippable frame of 16 random bytes begins it:
// packs of the same content have different digests, and so no key is used again once it was
// deleted.
//
//	0x184D2A50, length of what follows      4 bytes each, little endian
//	per content: digest, off, len, size     32 bytes and three unsigned varints
//	where this frame begins, "nofxpak1"     8 bytes, little endian, and 8
const (
	skippableFrame = 0x184D2A50
	packMagic      = "nofxpak1"
)

// compressAtOnce is how many contents are in memory while a pack is written.
const compressAtOnce = 64

// encoder is one for all: EncodeAll may be called side by side.
var encoder = func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(hashers), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		panic(err) // options that never change
	}
	return e
}()

// putPack stores small content in one object. The pack is written to a file
// first: its digest is its key, and a first checkpoint may fill gigabytes.
func (s *Store) putPack(ctx context.Context, tenant uuid.UUID, dir *os.Root, small []content) (tree.Object, []tree.Blob, error) {
	f, err := os.CreateTemp(s.cfg.TempDir, "nofx-pack-*")
	if err != nil {
		return tree.Object{}, nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // nothing stays behind, however we end
		return tree.Object{}, nil, err
	}

	p := packer{w: f, hash: sha256.New()}
	if err := p.begin(); err != nil {
		return tree.Object{}, nil, err
	}
	for some := range slices.Chunk(small, compressAtOnce) {
		if err := p.append(ctx, dir, some); err != nil {
			return tree.Object{}, nil, err
		}
	}
	return s.finishPack(ctx, tenant, f, &p)
}

// finishPack ends the pack that p has written to f, and stores it.
func (s *Store) finishPack(ctx context.Context, tenant uuid.UUID, f *os.File, p *packer) (tree.Object, []tree.Blob, error) {
	digest, err := p.finish()
	if err != nil {
		return tree.Object{}, nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return tree.Object{}, nil, err
	}
	object := tree.Object{Key: blob.PackKey(tenant, digest), SHA256: digest, Bytes: p.off, Kind: "pack"}
	sum := [32]byte(digest)
	if err := s.cfg.Blobs.Put(ctx, object.Key, f, object.Bytes, blob.PutOptions{SHA256: &sum}); err != nil {
		return tree.Object{}, nil, err
	}
	for i := range p.blobs {
		p.blobs[i].Pack = &digest
	}
	return object, p.blobs, nil
}

// packer writes a pack to w.
type packer struct {
	w     io.Writer
	hash  hash.Hash
	off   int64
	blobs []tree.Blob
}

// begin writes what makes the pack different from all others.
func (p *packer) begin() error {
	head := binary.LittleEndian.AppendUint32(nil, skippableFrame)
	head = binary.LittleEndian.AppendUint32(head, 16)
	salt := make([]byte, 16)
	rand.Read(salt) // does not fail
	return p.write(append(head, salt...))
}

// append compresses contents side by side and writes them in their order.
func (p *packer) append(ctx context.Context, dir *os.Root, contents []content) error {
	frames := make([][]byte, len(contents))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(hashers)
	for i := range contents {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			b, err := contents[i].read(dir)
			frames[i] = encoder.EncodeAll(b, nil)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, c := range contents {
		p.blobs = append(p.blobs, tree.Blob{SHA256: c.digest, Location: tree.Location{Size: c.size, Off: p.off, Len: int64(len(frames[i]))}})
		if err := p.write(frames[i]); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the index and returns the digest of the pack.
func (p *packer) finish() (tree.Digest, error) {
	var index []byte
	for _, b := range p.blobs {
		index = append(index, b.SHA256[:]...)
		for _, n := range []int64{b.Off, b.Len, b.Size} {
			index = binary.AppendUvarint(index, uint64(n))
		}
	}
	index = binary.LittleEndian.AppendUint64(index, uint64(p.off))
	index = append(index, packMagic...)
	head := binary.LittleEndian.AppendUint32(nil, skippableFrame)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(index)))
	if err := p.write(append(head, index...)); err != nil {
		return tree.Digest{}, err
	}
	return tree.Digest(p.hash.Sum(nil)), nil
}

func (p *packer) write(b []byte) error {
	n, err := p.w.Write(b)
	p.off += int64(n)
	p.hash.Write(b)
	if err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	return nil
}
