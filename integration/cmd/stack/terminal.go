package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"nofx.dev/integration/harness"
)

// terminal is what the person who started the stack sees. Several goroutines
// write to it, a whole line at a time.
type terminal struct {
	mu    sync.Mutex
	out   io.Writer
	color bool
	began time.Time
}

func newTerminal(out io.Writer) *terminal {
	f, ok := out.(*os.File)
	color := ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
	return &terminal{out: out, color: color, began: time.Now()}
}

const (
	bold   = "1"
	dim    = "2"
	green  = "32"
	yellow = "33"
	red    = "31"
)

// paint returns text in a colour where there are colours.
func (t *terminal) paint(color, text string) string {
	if !t.color || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

func (t *terminal) printf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, format, args...)
}

// progress prints what is being done, and when that began.
func (t *terminal) progress(what string) {
	t.printf("%s %s\n", t.paint(dim, fmt.Sprintf("%6.1fs", time.Since(t.began).Seconds())), what)
}

// warn shows a warning of a process: a line of its log, or what it cried out
// when it died.
func (t *terminal) warn(process, line string) {
	color := yellow
	if strings.Contains(line, `"level":"ERROR"`) {
		color = red
	}
	who, what := plain(process, line)
	t.printf("%s %s\n", t.paint(color, who+":"), what)
}

// plain returns a JSON log line of a process as a person reads it: whose it is, the run's if
// it is about one, and the message with its attributes. Control characters are shown,
// not obeyed.
func plain(process, line string) (who, what string) {
	var entry map[string]any
	if json.Unmarshal([]byte(line), &entry) != nil {
		return process, printable(line)
	}
	if id, ok := entry["run_id"].(string); ok && id != "" {
		process = printable(id)
		for _, name := range []string{"run_id", "tenant_id", "trace_id", "span_id"} { // the CLI finds them by the run
			delete(entry, name)
		}
	}
	var b strings.Builder
	fmt.Fprint(&b, entry["msg"])
	names := make([]string, 0, len(entry))
	for name := range entry {
		if name != "time" && name != "level" && name != "msg" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		value := fmt.Sprint(entry[name])
		if strings.ContainsAny(value, " \"\n") {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&b, " %s=%s", name, value)
	}
	return process, printable(b.String())
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}

// summary prints where everything is.
func (t *terminal) summary(s *harness.Stack, o options, login string, sandbox []string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "\n%s after %s\n\n", t.paint(green, "ready"), took.Round(100*time.Millisecond))
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(w, "  %s\t%s\n", name, value) }
	row("gateway", fmt.Sprintf("%s  (pid %d)", s.URL, s.Gateway.PID()))
	row("api docs", s.URL+"/api/docs")
	row("api key", s.APIKey)
	for _, p := range s.Workers() {
		row(p.Name(), fmt.Sprintf("pid %d, metrics %s", p.PID(), p.MetricsURL()))
	}
	row("gateway", "metrics "+s.Gateway.MetricsURL())
	row("database", s.AdminURL)
	row("storage", s.S3.Endpoint+"/"+s.S3.Bucket)
	for i, line := range sandbox {
		name := ""
		if i == 0 {
			name = "sandbox"
		}
		row(name, line)
	}
	row("data", o.data)
	row("logs", s.Log("*"))
	if o.envFile != "" {
		row("variables", o.envFile)
	}
	w.Flush()
	fmt.Fprintln(t.out)
	nofx := o.data + "/bin/nofx"
	switch {
	case login != "":
		fmt.Fprintf(t.out, "The command line tool knows this stack (%s):\n  %s run list\n", login, nofx)
	default:
		fmt.Fprintf(t.out, "For the command line tool:\n  export NOFX_URL=%s NOFX_API_KEY=%s\n  %s run list\n", s.URL, s.APIKey, nofx)
	}
	fmt.Fprint(t.out, "Ctrl-C stops everything.\n\n")
}
