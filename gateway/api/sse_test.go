package api_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"nofx.dev/gateway/api"
)

// readFrames reads a stream to its end.
func readFrames(r io.Reader) ([]api.Frame, time.Duration, error) {
	fr := api.NewFrameReader(r)
	var frames []api.Frame
	for {
		f, err := fr.Next()
		if err != nil {
			return frames, fr.Retry(), err
		}
		frames = append(frames, f)
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		in   string
		want []api.Frame
		end  error // io.EOF if nil
	}{
		"one":                   {in: "id: 1\nevent: run.created\ndata: {}\n\n", want: []api.Frame{{"1", "run.created", "{}"}}},
		"lines of data":         {in: "data: a\ndata:b\ndata\n\n", want: []api.Frame{{"", "", "a\nb\n"}}},
		"comments are nothing":  {in: ": hello\n\n:\ndata: a\n: in between\n\n", want: []api.Frame{{"", "", "a"}}},
		"an id only":            {in: "id: 7\n\n", want: []api.Frame{{"7", "", ""}}},
		"an event without data": {in: "event: x\n\ndata: a\n\n", want: []api.Frame{{"", "", "a"}}},
		"an id with NUL":        {in: "id: 1\x00\ndata: a\n\n", want: []api.Frame{{"", "", "a"}}},
		"the last event counts": {in: "event: x\nevent: y\ndata: a\n\n", want: []api.Frame{{"", "y", "a"}}},
		"names have case":       {in: "Data: a\nDATA: b\ndata: c\n\n", want: []api.Frame{{"", "", "c"}}},
		"one space goes":        {in: "data:  a\n\n", want: []api.Frame{{"", "", " a"}}},
		"a tab stays":           {in: "data:\ta\n\n", want: []api.Frame{{"", "", "\ta"}}},
		"a space before a name": {in: " data: a\ndata: b\n\n", want: []api.Frame{{"", "", "b"}}},
		"unknown names":         {in: "colour: red\ncolour\ndata: a\n\n", want: []api.Frame{{"", "", "a"}}},
		"a colon in a value":    {in: "data: a: b\n\n", want: []api.Frame{{"", "", "a: b"}}},
		"byte order mark":       {in: "\ufeffdata: a\n\n", want: []api.Frame{{"", "", "a"}}},
		"a second mark":         {in: "\ufeff\ufeffdata: a\n\ndata: b\n\n", want: []api.Frame{{"", "", "b"}}},
		"a mark within":         {in: "data: a\n\n\ufeffdata: b\n\n", want: []api.Frame{{"", "", "a"}}},
		"nothing":               {},
		"empty lines":           {in: "\n\n\n"},
		"cut in a block":        {in: "data: a\n\ndata: b\n", want: []api.Frame{{"", "", "a"}}, end: io.ErrUnexpectedEOF},
		"cut in a line":         {in: "data: a\n\nid: 12", want: []api.Frame{{"", "", "a"}}, end: io.ErrUnexpectedEOF},
		"cut in a comment":      {in: "data: a\n\n:", want: []api.Frame{{"", "", "a"}}, end: io.ErrUnexpectedEOF},

		// The examples of the standard.
		"standard, two lines": {in: "data: YHOO\ndata: +2\ndata: 10\n\n", want: []api.Frame{{"", "", "YHOO\n+2\n10"}}},
		"standard, four blocks": {
			in:   ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
			want: []api.Frame{{"1", "", "first event"}, {"", "", "second event"}, {"", "", " third event"}},
		},
		"standard, empty data": {in: "data\n\ndata\ndata\n\ndata:", want: []api.Frame{{}, {Data: "\n"}}, end: io.ErrUnexpectedEOF},
		"standard, spaces":     {in: "data:test\n\ndata: test\n\n", want: []api.Frame{{"", "", "test"}, {"", "", "test"}}},
		"standard, names": {
			in:   "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n",
			want: []api.Frame{{"", "add", "73857293"}, {"", "remove", "2153"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end := tt.end
			if end == nil {
				end = io.EOF
			}
			for ending, in := range map[string]string{
				"LF": tt.in, "CR": strings.ReplaceAll(tt.in, "\n", "\r"), "CR LF": strings.ReplaceAll(tt.in, "\n", "\r\n"),
			} {
				got, _, err := readFrames(iotest.OneByteReader(strings.NewReader(in)))
				if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, end) {
					t.Errorf("frames(%q), lines ending in %s, end with %v, want %v (-want +got):\n%s", in, ending, err, end, diff)
				}
			}
		})
	}
}

func TestRetry(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"":                              0,
		"retry: 2000\n\n":               2 * time.Second,
		"retry: 2000\n\nretry: 1\n\n":   time.Millisecond,
		"retry: 2000\n\nretry:soon\n\n": 2 * time.Second,
		"retry: -1\nretry: 1.5\nretry: 99999999999999999999\nretry\n\n": 0,
		"retry: 5\ndata: cut off": 5 * time.Millisecond,
	} {
		if _, got, _ := readFrames(strings.NewReader(in)); got != want {
			t.Errorf("Retry after %q = %v, want %v", in, got, want)
		}
	}
}

// TestFrameAtCR checks that a frame is handed on at the CR that ends it, and does
// not wait for the LF that may follow.
func TestFrameAtCR(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, "data: a\r\r") }() // and nothing after it
	want := api.Frame{Data: "a"}
	if got, err := api.NewFrameReader(r).Next(); got != want || err != nil {
		t.Errorf("Next = %+v, %v, want %+v, nil", got, err, want)
	}
}

func TestStreamBreaks(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	got, _, err := readFrames(io.MultiReader(strings.NewReader("data: a\n\ndata: b\n"), iotest.ErrReader(broken)))
	if diff := cmp.Diff([]api.Frame{{Data: "a"}}, got); diff != "" || !errors.Is(err, broken) {
		t.Errorf("frames of a stream that breaks end with %v, want %v (-want +got):\n%s", err, broken, diff)
	}
}

func TestFrameTooLarge(t *testing.T) {
	t.Parallel()
	const most = 1 << 20
	for name, in := range map[string]io.Reader{
		"an endless line":     io.MultiReader(strings.NewReader("data: "), rest('x')),
		"an endless name":     rest('x'),
		"endless data":        repeated("data: 0123456789\n"),
		"endless empty data":  repeated("data\n"),
		"endless comments":    repeated(": hello\n"),
		"one byte over":       strings.NewReader("data:" + strings.Repeat("x", most-len("data:")+1) + "\n\n"),
		"over in its id line": strings.NewReader("data:" + strings.Repeat("x", most-len("data:")-1) + "\nid\n\n"),
	} {
		if got, _, err := readFrames(in); len(got) > 0 || !errors.Is(err, api.ErrFrameTooLarge) {
			t.Errorf("%s = %d frames, %v, want none, %v", name, len(got), err, api.ErrFrameTooLarge)
		}
	}
	full := strings.Repeat("data:"+strings.Repeat("x", most-len("data:"))+"\n\n", 2)
	if got, _, err := readFrames(strings.NewReader(full)); len(got) != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("two frames as large as may be = %d frames, %v, want 2, %v", len(got), err, io.EOF)
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

// TestFramesWherever checks that frames are the same however their bytes arrive and
// however their lines end.
func TestFramesWherever(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringMatching(`[a-zé ":{}]{0,12}`)
		want := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) api.Frame {
			return api.Frame{
				ID:    rapid.StringMatching(`[0-9]{1,4}`).Draw(t, "id"),
				Event: rapid.StringMatching(`[a-z.]{0,6}`).Draw(t, "event"),
				Data:  strings.Join(rapid.SliceOfN(line, 1, 3).Draw(t, "data"), "\n"),
			}
		}), 0, 6).Draw(t, "frames")
		ending := rapid.SampledFrom([]string{"\n", "\r", "\r\n"}).Draw(t, "ending")
		var s strings.Builder
		for _, f := range want {
			s.WriteString("id:" + f.ID + ending + "event: " + f.Event + ending)
			for part := range strings.SplitSeq(f.Data, "\n") {
				s.WriteString("data: " + part + ending)
			}
			s.WriteString(ending)
		}
		got, _, _ := readFrames(&pieces{s.String(), t})
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
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
