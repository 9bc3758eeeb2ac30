package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"nofx.dev/gateway/api"
)

// A log is text of somebody else's program: on a terminal it may colour its words and
// do nothing else.
func TestLogOnATerminal(t *testing.T) {
	t.Parallel()
	const log = "plain\ttab\n\x1b[1;31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x1b[3A\x1b[200~ \x1bc \u009b2J \x7f \u202edetsrever\u2066 \u2028 bad\x9b2J\r\nover\rwritten \U0001F468\u200d\U0001F469 \x00"
	const shown = "plain\ttab\n\x1b[1;31mred\x1b[0m ^[]0;title^G ^[[2J^[[3A^[[200~ ^[c <U+009B>2J ^? <U+202E>detsrever<U+2066> <U+2028> bad\ufffd2J\nover^Mwritten \U0001F468\u200d\U0001F469 ^@"
	script := map[string]http.HandlerFunc{"getStep": answer(http.StatusOK, api.StepDetail{Step: step(1, "build", "bash", api.StepStatusSucceeded), Attempts: []api.Attempt{}}), "getStepLogs": func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept") == api.EventStream {
			w.Header().Set("Content-Type", api.EventStream)
			_, _ = w.Write([]byte(block("12", "log", `{"offset":0,"text":"a\u001b[2Jb\u001b[3"}`) + block("17", "log", `{"offset":12,"text":"1mc\r\n"}`) + block("", "end", `{}`)))
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(log))
	}}
	_, server := newGateway(t, script)
	for _, tt := range []struct {
		line     string
		terminal bool
		want     string
	}{
		{"logs " + id("step", 1), false, log},
		{"logs --raw " + id("step", 1), true, log},
		{"logs " + id("step", 1), true, shown + "\x1b[0m"},
		{"logs -f " + id("step", 1), true, "a^[[2Jb\x1b[31mc\n\x1b[0m"},
		{"logs -f --raw " + id("step", 1), true, "a\x1b[2Jb\x1b[31mc\r\n"},
		{"logs -f " + id("step", 1), false, "a\x1b[2Jb\x1b[31mc\r\n"},
	} {
		c := newCLI(t, server.URL)
		c.app.terminal = tt.terminal
		if code := execute(t.Context(), c.app, strings.Fields(tt.line)); code != exitOK || c.out.String() != tt.want {
			t.Errorf("nofx %s on a terminal (%v) = exit %d, %q, want %q; %s", tt.line, tt.terminal, code, &c.out, tt.want, &c.errOut)
		}
	}
}

// However its input is cut, the writer shows the same.
func TestVisibleOverAnyBorders(t *testing.T) {
	t.Parallel()
	const text = "a\x1b[31mb\x1b[0m\x1b[2J\x1b]0;x\x07é\u202e\r\nc\rd\xff\u009b\x1b[" + "1;2;3;4;5;6;7;8;9;1;2;3;4;5;6;7;8;9;1;2;3;4;5;6;7;8;9m\x1b"
	want := visible(text)
	for n := 1; n < len(text); n++ {
		var out bytes.Buffer
		w := &visibleWriter{w: &out}
		for i := 0; i < len(text); i += n {
			if _, err := w.Write([]byte(text[i:min(len(text), i+n)])); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || out.String() != want {
			t.Errorf("written %d bytes at a time = %q, want %q", n, &out, want)
		}
	}
}

// JSON on a terminal says the same, in escapes.
func TestJSONOnATerminal(t *testing.T) {
	t.Parallel()
	d := detail()
	d.Run.Goal = "ship\u009b2J\u202e\x7f it"
	s := script()
	s["getRun"] = answer(http.StatusOK, d)
	_, server := newGateway(t, s)
	c := newCLI(t, server.URL)
	c.app.terminal = true
	if code := execute(t.Context(), c.app, []string{"run", "show", d.Run.ID, "--json"}); code != exitOK || !strings.Contains(c.out.String(), `"ship\u009b2J\u202e\u007f it"`) {
		t.Errorf("run show --json = exit %d, %s; want the control characters as escapes", code, &c.out)
	}
}
