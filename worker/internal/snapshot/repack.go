package snapshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/google/uuid"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/tree"
)

// packTail is the length of the end of a pack, which says where its index begins.
const packTail = 16

// Packed returns the content of the pack at key, of so many bytes, as its index has it.
func (s *Store) Packed(ctx context.Context, key string, size int64) ([]tree.Blob, error) {
	if size < packTail+8 {
		return nil, blob.Corrupt(fmt.Errorf("pack %s has %d bytes", key, size))
	}
	tail, err := s.readRange(ctx, key, size-packTail, packTail)
	if err != nil {
		return nil, err
	}
	at := binary.LittleEndian.Uint64(tail)
	if at > math.MaxInt64 || int64(at) > size-packTail-8 || string(tail[8:]) != packMagic {
		return nil, blob.Corrupt(fmt.Errorf("pack %s has no index", key))
	}
	frame, err := s.readRange(ctx, key, int64(at), size-int64(at))
	if err != nil {
		return nil, err
	}
	list, err := decodeIndex(frame)
	if err != nil {
		return nil, blob.Corrupt(fmt.Errorf("pack %s: %w", key, err))
	}
	return list, nil
}

func (s *Store) readRange(ctx context.Context, key string, off, length int64) ([]byte, error) {
	r, err := s.cfg.Blobs.Open(ctx, key, off, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, length)
	_, err = io.ReadFull(r, b)
	return b, err
}

// decodeIndex reads the index of a pack, its last frame.
func decodeIndex(frame []byte) (list []tree.Blob, err error) {
	if len(frame) < packTail+8 || binary.LittleEndian.Uint32(frame) != skippableFrame || int(binary.LittleEndian.Uint32(frame[4:])) != len(frame)-8 {
		return nil, errors.New("no index where the end says")
	}
	for rest := bytes.NewReader(frame[8 : len(frame)-packTail]); rest.Len() > 0; {
		var b tree.Blob
		if _, err := io.ReadFull(rest, b.SHA256[:]); err != nil {
			return nil, err
		}
		for _, n := range []*int64{&b.Off, &b.Len, &b.Size} {
			v, err := binary.ReadUvarint(rest)
			if err != nil {
				return nil, err
			}
			if v > math.MaxInt64 {
				return nil, fmt.Errorf("%d is no place or length", v)
			}
			*n = int64(v)
		}
		list = append(list, b)
	}
	return list, nil
}

// Repack stores a pack of these contents of another pack, in the order of their places, and
// returns it and where they are in it. Frames are copied as they are.
func (s *Store) Repack(ctx context.Context, tenant uuid.UUID, contents []tree.Blob) (tree.Object, []tree.Blob, error) {
	f, err := os.CreateTemp(s.cfg.TempDir, "nofx-pack-*")
	if err != nil {
		return tree.Object{}, nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return tree.Object{}, nil, err
	}
	p := packer{w: f, hash: sha256.New()}
	if err := p.begin(); err != nil {
		return tree.Object{}, nil, err
	}
	for _, c := range contents {
		frame, err := s.readRange(ctx, c.Key(tenant, c.SHA256), c.Off, c.Len)
		if err != nil {
			return tree.Object{}, nil, err
		}
		p.blobs = append(p.blobs, tree.Blob{SHA256: c.SHA256, Location: tree.Location{Size: c.Size, Off: p.off, Len: c.Len}})
		if err := p.write(frame); err != nil {
			return tree.Object{}, nil, err
		}
	}
	return s.finishPack(ctx, tenant, f, &p)
}
