package harness

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"
)

// watchLog hands the warnings of the process's log to its warn, until Stop and
// the process's end. The process writes its log itself, so that it can go on
// writing when we are killed; we read the file as it grows.
func (p *Process) watchLog() {
	f, err := os.Open(p.spec.log)
	if err != nil {
		p.spec.warn(p.spec.name, "its log cannot be read: "+err.Error())
		return
	}
	defer f.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var rest []byte
	for last := false; ; {
		b, _ := io.ReadAll(f)
		rest = append(rest, b...)
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				break
			}
			if text := warning(line); text != "" {
				p.spec.warn(p.spec.name, text)
			}
			rest = after
		}
		if last {
			return
		}
		select {
		case <-tick.C:
		case <-p.stop: // until the process has written its last line
			p.mu.Lock()
			current := p.current
			p.mu.Unlock()
			if current != nil {
				<-current.Done()
			}
			last = true
		}
	}
}

// warning returns what a person should see of a log line: a warning, an error, or
// what is no log line at all, such as a panic. It is "" for anything else.
func warning(line []byte) string {
	line = bytes.TrimSpace(line)
	var entry map[string]any
	if json.Unmarshal(line, &entry) != nil {
		return string(line)
	}
	level, _ := entry["level"].(string)
	if level != "WARN" && level != "ERROR" {
		return ""
	}
	return string(line)
}

// lastLines returns the end of a log, for an error message.
func lastLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 2048
	if info, err := f.Stat(); err == nil && info.Size() > most {
		f.Seek(-most, io.SeekEnd) //nolint:errcheck // then all of it is shown
	}
	b, _ := io.ReadAll(io.LimitReader(f, most))
	return strings.TrimSpace(string(b))
}
