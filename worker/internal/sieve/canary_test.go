package sieve

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"nofx.dev/shared/telemetry"
)

// piece is how many bytes of a secret in a row count as a leak.
const piece = 12

// leaked returns a piece of the lines of a secret that is in text, or "".
func leaked(text string, lines []string) string {
	pieces := map[string]bool{}
	for _, line := range lines {
		for i := 0; i+piece <= len(line); i++ {
			pieces[line[i:i+piece]] = true
		}
	}
	for i := 0; i+piece <= len(text); i++ {
		if pieces[text[i:i+piece]] {
			return text[i : i+piece]
		}
	}
	return ""
}

// newKey returns a private key with der bytes in it, and the lines of its body.
func newKey(der int) (text string, body []string) {
	raw := make([]byte, der)
	_, _ = rand.Read(raw)
	text = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return text, lines[1 : len(lines)-1]
}

// written returns text as it comes out of a sieve, and out of a tail, when it is
// written n bytes at a time.
func written(text string, n, most int, r *telemetry.Redactor) (whole, end string) {
	s, t := New(r.String), NewTail(most, r.String)
	var out bytes.Buffer
	for p := range slices.Chunk([]byte(text), n) {
		out.Write(s.Pass(p))
		_, _ = t.Write(p)
	}
	out.Write(s.End())
	return out.String(), t.End()
}

// A secret lies at many offsets around every border there is: where pieces of input
// end, where so much is held that it must be let go, where a log's chunk ends, and
// where a tail begins.
func TestNoBorderShowsASecret(t *testing.T) {
	t.Parallel()
	const most = 8 << 10
	canary, multi := rand.Text()+rand.Text(), rand.Text()+"\n  "+rand.Text()+rand.Text()
	key, body := newKey(600)
	r := telemetry.NewRedactor(canary, multi)
	for name, secret := range map[string]struct {
		text  string
		lines []string
	}{
		"value":            {canary, []string{canary}},
		"value in colours": {canary[:26] + "\x1b[31m" + canary[26:], []string{canary[:26], canary[26:]}},
		"value of lines":   {multi, strings.Fields(multi)},
		"lines with CRLF":  {strings.ReplaceAll(multi, "\n", "\r\n"), strings.Fields(multi)},
		"base64":           {base64.StdEncoding.EncodeToString([]byte("xy" + canary)), []string{base64.StdEncoding.EncodeToString([]byte("xy" + canary))[4:64]}},
		"token":            {"ACCESS_TOKEN=" + canary[:30], []string{canary[:30]}},
		"key":              {key, body},
		"key with CRLF":    {strings.ReplaceAll(key, "\n", "\r\n"), body},
		"key in JSON":      {`{"key":"` + strings.ReplaceAll(key, "\n", `\n`) + `"}`, body},
		"key, lines named": {"api | " + strings.ReplaceAll(key, "\n", "\napi | "), body},
	} {
		for filler, unit := range map[string]string{"lines": "a line of output\n", "one line": "words without an end "} {
			t.Run(name+" among "+filler, func(t *testing.T) {
				t.Parallel()
				for _, border := range []int{overlap, maxHold - overlap, maxHold} {
					for at := border - len(secret.text) - 1; at <= border+1; at += len(secret.text)/5 + 1 {
						before := strings.Repeat(unit, border/len(unit)+1)[:max(0, at)]
						after := strings.Repeat(unit, 16<<10/len(unit)+1)
						for _, n := range []int{4 << 10, maxHold} {
							// A tail begins within the secret, or right before or after it.
							back := after[:max(0, most-len(secret.text)+(at-border)+len(secret.text)/2)]
							whole, _ := written(before+secret.text+after, n, most, r)
							_, end := written(before+secret.text+back, n, most, r)
							if leak := leaked(whole+end, secret.lines); leak != "" {
								t.Fatalf("at %d, written %d bytes at a time, %q is shown", at, n, leak)
							}
							if len(end) > most || !strings.HasSuffix(whole, after[len(after)-100:]) {
								t.Fatalf("at %d: a tail of %d bytes, and the text ends in %q", at, len(end), whole[max(0, len(whole)-100):])
							}
						}
					}
				}
			})
		}
	}
}

// The tail sees all that was written: a key whose first line is far before it, and many
// keys, whose masks make the text so short that earlier ones come into view.
func TestTailOfKeys(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	var bodies []string
	for range 6 {
		key, body := newKey(2349)
		text.WriteString(key)
		bodies = append(bodies, body...)
	}
	long, body := newKey(200 << 10)
	for name, tt := range map[string]struct{ text, want string }{
		"six keys":      {text.String(), strings.Repeat("[redacted]\n", 6)},
		"a long key":    {long + "after\n", "after\n"},
		"one that ends": {long[:len(long)/2], "[redacted]"},
	} {
		for _, n := range []int{100, 32 << 10, len(tt.text)} {
			whole, end := written(tt.text, n, 8<<10, nil)
			if leak := leaked(whole+end, append(bodies, body...)); leak != "" || !strings.HasSuffix(end, tt.want) {
				t.Errorf("%s, written %d bytes at a time: the tail is %.200q and shows %q, want it to end in %q", name, n, end, leak, tt.want)
			}
		}
	}
}

func TestEndlessOutputIsNotKept(t *testing.T) {
	t.Parallel()
	for name, unit := range map[string]string{
		"lines": strings.Repeat("a line of output\n", 2000), "one line": strings.Repeat("no end ", 5000), "a key": strings.Repeat("QUJD", 8000),
		"an open quote": strings.Repeat("p'w=;", 7000),
	} {
		tail := NewTail(8<<10, (*telemetry.Redactor)(nil).String)
		_, _ = tail.Write([]byte("-----BEGIN PRIVATE KEY-----\n"))
		if name == "an open quote" {
			_, _ = tail.Write([]byte(`password="`))
		}
		for range 200 {
			_, _ = tail.Write([]byte(unit))
			if held := cap(tail.sieve.held) + cap(tail.kept); held > 8*maxHold {
				t.Fatalf("%s: %d bytes are kept, want at most %d", name, held, 8*maxHold)
			}
		}
	}
}

// BenchmarkSieve compares the sieve with copying the same bytes, in one run.
func BenchmarkSieve(b *testing.B) {
	line := "2026-11-29T10:11:12Z INFO compiling package foo/bar with 12 workers; cache hit ratio 0.93\n"
	for name, text := range map[string]string{
		"lines":    strings.Repeat(line, 1<<20/len(line)),
		"one line": strings.Repeat(strings.TrimSpace(line), 1<<20/len(line)),
		"a key":    "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("QUJD", 256<<10),
	} {
		b.Run(name, func(b *testing.B) {
			r := telemetry.NewRedactor("c4n4ry-value", "another-value-of-some-length", strings.Repeat("x1", 30))
			b.SetBytes(int64(len(text)))
			var sieving, copying time.Duration
			var out bytes.Buffer
			for b.Loop() {
				start := time.Now()
				s := New(r.String)
				out.Reset()
				for p := range slices.Chunk([]byte(text), 32<<10) {
					out.Write(s.Pass(p))
				}
				out.Write(s.End())
				sieved := time.Now()
				out.Reset()
				for p := range slices.Chunk([]byte(text), 32<<10) {
					out.Write(p)
				}
				sieving += sieved.Sub(start)
				copying += time.Since(sieved)
			}
			b.ReportMetric(float64(sieving)/float64(copying), "×copying")
		})
	}
}
