package confine

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzSpec(f *testing.F) {
	f.Add(NewSpec("/bin/sh", "/", []string{"sh", "-c", ""}, []string{"A=\xff1"}).Encode())
	f.Add([]byte("\x00\x00\x00\x04{}{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := DecodeSpec(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := DecodeSpec(bytes.NewReader(s.Encode()))
		if diff := cmp.Diff(s, again); err != nil || diff != "" {
			t.Errorf("DecodeSpec(Encode(%v)): %v %s", s, err, diff)
		}
	})
}
