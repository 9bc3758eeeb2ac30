package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func readFrames(r io.Reader) ([]frame, time.Duration, error) {
	fr := newFrameReader(r)
	var frames []frame
	for {
		f, err := fr.next()
		if err != nil {
			return frames, fr.retry, err
		}
		frames = append(frames, f)
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   string
		want []frame
	}{
		"one":                   {"id: 1\nevent: run.created\ndata: {}\n\n", []frame{{"1", "run.created", "{}"}}},
		"lines of data":         {"data: a\ndata:b\ndata\n\n", []frame{{"", "", "a\nb\n"}}},
		"comments are nothing":  {": hello\n\n:\ndata: a\n: in between\n\n", []frame{{"", "", "a"}}},
		"an id only":            {"id: 7\n\n", []frame{{"7", "", ""}}},
		"an event without data": {"event: x\n\ndata: a\n\n", []frame{{"", "", "a"}}},
		"cut off":               {"data: a\n\ndata: b\n", []frame{{"", "", "a"}}},
		"one space goes":        {"data:  a\n\n", []frame{{"", "", " a"}}},
		"unknown names":         {"colour: red\ndata: a\n\n", []frame{{"", "", "a"}}},
		"an id with NUL":        {"id: 1\x00\ndata: a\n\n", []frame{{"", "", "a"}}},
		"byte order mark":       {"\ufeffdata: a\n\n", []frame{{"", "", "a"}}},
		"nothing":               {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for ending, in := range map[string]string{
				"LF": tt.in, "CR": strings.ReplaceAll(tt.in, "\n", "\r"), "CR LF": strings.ReplaceAll(tt.in, "\n", "\r\n"),
			} {
				got, _, err := readFrames(iotest.OneByteReader(strings.NewReader(in)))
				if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(frame{})); diff != "" || !errors.Is(err, io.EOF) {
					t.Errorf("frames(%q), lines ending in %s, %v (-want +got):\n%s", in, ending, err, diff)
				}
			}
		})
	}
}

func TestFrameRetry(t *testing.T) {
	t.Parallel()
	_, retry, _ := readFrames(strings.NewReader("retry: 2000\n\nretry: soon\n\n"))
	if want := 2 * time.Second; retry != want {
		t.Errorf("retry = %v, want %v", retry, want)
	}
}

func TestFrameTooLarge(t *testing.T) {
	t.Parallel()
	endless := io.MultiReader(strings.NewReader("data: "), rest('x'))
	if _, _, err := readFrames(endless); !errors.Is(err, errFrameTooLarge) {
		t.Errorf("an endless line = %v, want %v", err, errFrameTooLarge)
	}
	if _, _, err := readFrames(repeated("data: 0123456789\n")); !errors.Is(err, errFrameTooLarge) {
		t.Errorf("an endless frame = %v, want %v", err, errFrameTooLarge)
	}
}

type rest byte

func (b rest) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

type repeated string

func (s repeated) Read(p []byte) (int, error) {
	return copy(p, s), nil
}

// TestFramesWherever: however the bytes arrive, and however lines end, the
// frames are the same.
func TestFramesWherever(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringMatching(`[a-zé ":{}]{0,12}`)
		want := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) frame {
			return frame{
				id:    rapid.StringMatching(`[0-9]{1,4}`).Draw(t, "id"),
				event: rapid.StringMatching(`[a-z.]{0,6}`).Draw(t, "event"),
				data:  strings.Join(rapid.SliceOfN(line, 1, 3).Draw(t, "data"), "\n"),
			}
		}), 0, 6).Draw(t, "frames")
		ending := rapid.SampledFrom([]string{"\n", "\r", "\r\n"}).Draw(t, "ending")
		var s strings.Builder
		for _, f := range want {
			s.WriteString("id:" + f.id + ending + "event: " + f.event + ending)
			for part := range strings.SplitSeq(f.data, "\n") {
				s.WriteString("data: " + part + ending)
			}
			s.WriteString(ending)
		}
		got, _, _ := readFrames(&pieces{s.String(), t})
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(frame{}), cmp.Transformer("nil", func(f []frame) []frame { return append([]frame{}, f...) })); diff != "" {
			t.Fatalf("frames(%q) (-want +got):\n%s", s.String(), diff)
		}
	})
}

// pieces hands its text on in pieces of any size.
type pieces struct {
	s string
	t *rapid.T
}

func (p *pieces) Read(to []byte) (int, error) {
	if p.s == "" {
		return 0, io.EOF
	}
	n := copy(to, p.s[:rapid.IntRange(1, len(p.s)).Draw(p.t, "piece")])
	p.s = p.s[n:]
	return n, nil
}
