package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

const (
	eventStream = "text/event-stream"
	maxFrame    = 1 << 20 // bytes of one frame
)

// frame is one block of an event stream. One without data carries an id only:
// the place has moved on though nothing was shown.
type frame struct {
	id    string // empty when the block has none
	event string
	data  string
}

// frameReader takes an event stream apart, as the HTML standard says it: lines
// end in LF, CR or CR LF, a block in an empty line, and a block that the
// connection's end cuts off does not count.
type frameReader struct {
	r     *bufio.Reader
	retry time.Duration // what the server asked for last, or 0
	afterCR,
	begun bool
}

func newFrameReader(r io.Reader) *frameReader { return &frameReader{r: bufio.NewReader(r)} }

// next is the next frame with data or an id, or io.EOF.
func (fr *frameReader) next() (frame, error) {
	var f frame
	var data strings.Builder
	var hasData bool
	for size := 0; ; {
		line, err := fr.line(maxFrame - size)
		if err != nil {
			return frame{}, err
		}
		size += len(line)
		if line == "" {
			if hasData || f.id != "" {
				f.data = data.String()
				return f, nil
			}
			f, size = frame{}, 0
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			f.event = value
		case "id":
			if !strings.Contains(value, "\x00") {
				f.id = value
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

var errFrameTooLarge = errors.New("a frame is too large")

// line is the next line without its end. CR LF is one end even when the LF
// comes late: a line is handed on at its CR and does not wait.
func (fr *frameReader) line(most int) (string, error) {
	var line strings.Builder
	for {
		c, err := fr.r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return "", io.EOF
			}
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
			return "", errFrameTooLarge
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
