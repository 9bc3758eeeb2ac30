package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// EventStream is the media type of a stream, to be sent as Accept.
const EventStream = "text/event-stream"

// maxFrame bounds the bytes of one frame, its comments included.
const maxFrame = 1 << 20

// ErrFrameTooLarge reports a frame that is larger than a reader keeps.
var ErrFrameTooLarge = errors.New("a frame is too large")

// Frame is one block of an event stream. A frame without data has an ID only: the
// place to resume from has moved on though there was nothing to show.
type Frame struct {
	ID    string // to be sent as Last-Event-ID; empty if the block has none
	Event string
	Data  string
}

// FrameReader reads an event stream by the rules of the HTML standard, section
// "Interpreting an event stream". It differs in two points: a block with an id
// and no data is a frame too, so that a client can resume after it, and an empty
// id counts as none.
//
// It is written by hand because the libraries at hand lose something that the
// gateway's streams rely on: the retry field, the id of a frame without data, or
// a bound on the memory and time that one frame takes.
type FrameReader struct {
	r     *bufio.Reader
	retry time.Duration
	afterCR,
	begun bool // the first line, which may have a byte order mark, was read
}

// NewFrameReader returns a reader of the stream r.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: bufio.NewReader(r)} }

// Retry returns how long the server wants a client to wait before it connects
// again, by the newest retry field, or 0 if it said nothing.
func (fr *FrameReader) Retry() time.Duration { return fr.retry }

// Next returns the next frame that has data or an id. It returns io.EOF when the
// stream ends between two blocks, io.ErrUnexpectedEOF when it ends within a block,
// which is dropped, and ErrFrameTooLarge for a frame of more than a mebibyte.
func (fr *FrameReader) Next() (Frame, error) {
	var f Frame
	var data strings.Builder
	var hasData bool
	for size := 0; ; {
		line, err := fr.line(maxFrame - size)
		if errors.Is(err, io.EOF) && size > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Frame{}, err
		}
		size += len(line)
		if line == "" {
			if hasData || f.ID != "" {
				f.Data = data.String()
				return f, nil
			}
			f, size = Frame{}, 0
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			f.Event = value
		case "id":
			if !strings.Contains(value, "\x00") {
				f.ID = value
			}
		case "data":
			if hasData {
				data.WriteByte('\n')
			}
			data.WriteString(value)
			hasData = true
		case "retry":
			if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
				fr.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
}

// line returns the next line without its end, of at most the given length. It
// returns a line at its CR and does not wait to see whether an LF follows, which
// would belong to the same line end.
func (fr *FrameReader) line(most int) (string, error) {
	var line strings.Builder
	for {
		c, err := fr.r.ReadByte()
		switch {
		case errors.Is(err, io.EOF) && line.Len() > 0:
			return "", io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return "", io.EOF
		case err != nil:
			return "", fmt.Errorf("read the stream: %w", err)
		}
		if c == '\n' && fr.afterCR {
			fr.afterCR = false
			continue
		}
		fr.afterCR = c == '\r'
		if c == '\n' || c == '\r' {
			break
		}
		if line.Len() >= most {
			return "", ErrFrameTooLarge
		}
		line.WriteByte(c)
	}
	s := line.String()
	if !fr.begun {
		fr.begun = true
		s = strings.TrimPrefix(s, "\ufeff")
	}
	return s, nil
}
