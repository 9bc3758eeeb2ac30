package steplog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"nofx.dev/shared/fault"
)

// memory is a storage in memory that can be made to fail or to hang.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	chunks  []Chunk
	at      []time.Time
	put     func(ctx context.Context, key string) error // before an object is stored
	record  func(c Chunk) error                         // before a row is
	marks   []int64                                     // sizes of a log that lacks some
}

func (m *memory) config(redact func(string) string) Config {
	m.objects = map[string][]byte{}
	return Config{
		Key: func(n int) string { return fmt.Sprintf("log/7-%d", n) },
		Put: func(ctx context.Context, key string, data []byte) error {
			if m.put != nil {
				if err := m.put(ctx, key); err != nil {
					return err
				}
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.objects[key] = bytes.Clone(data)
			return nil
		},
		Record: func(_ context.Context, c Chunk) error {
			if m.record != nil {
				if err := m.record(c); err != nil {
					return err
				}
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.chunks, m.at = append(m.chunks, c), append(m.at, time.Now())
			return nil
		},
		Mark: func(_ context.Context, size int64) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.marks = append(m.marks, size)
			return failing(len(m.marks)%2 == 1)
		},
		Redact: redact,
	}
}

// log checks that rows and objects agree and returns the text they make.
func (m *memory) log(t *testing.T) string {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var text strings.Builder
	for i, c := range m.chunks {
		data, ok := m.objects[c.Key]
		sum := sha256.Sum256(data)
		want := Chunk{N: i + 1, Start: int64(text.Len()), Bytes: int64(len(data)),
			Lines: strings.Count(string(data), "\n"), Key: fmt.Sprintf("log/7-%d", i+1), SHA256: sum[:]}
		if diff := cmp.Diff(want, c); !ok || diff != "" {
			t.Errorf("chunk %d (-want +got):\n%s", i+1, diff)
		}
		if !utf8.Valid(data) || len(data) == 0 || len(data) > chunkBytes {
			t.Errorf("chunk %d has %d bytes, valid %t", i+1, len(data), utf8.Valid(data))
		}
		text.Write(data)
	}
	return text.String()
}

func write(t *testing.T, w *Writer, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("Write(%.20q) = %d, %v", s, n, err)
		}
	}
}

func TestChunksBySizeAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		w := Open(t.Context(), m.config(nil))
		start := time.Now()
		write(t, w, "one\n")
		time.Sleep(500 * time.Millisecond)
		write(t, w, "two\n")
		time.Sleep(10 * time.Second)
		if got := m.log(t); got != "one\ntwo\n" || len(m.chunks) != 1 || m.at[0].Sub(start) != time.Second {
			t.Errorf("log = %q in %d chunks at %v, want one chunk after a second", got, len(m.chunks), m.at)
		}
		long := strings.Repeat(strings.Repeat("é", 50)+"\n", 1500) // 151,500 bytes
		write(t, w, long)
		synctest.Wait()
		if len(m.chunks) != 3 {
			t.Errorf("%d chunks at once, want the two full ones", len(m.chunks)-1)
		}
		if err := w.Close(t.Context(), t.Context()); err != nil {
			t.Errorf("Close = %v", err)
		}
		if got := m.log(t); got != "one\ntwo\n"+long {
			t.Errorf("log has %d bytes, want %d", len(got), len(long)+8)
		}
		for _, c := range m.chunks {
			if text := m.objects[c.Key]; text[len(text)-1] != '\n' {
				t.Errorf("chunk %d ends within a line", c.N)
			}
		}
		if _, err := w.Write([]byte("late")); err != os.ErrClosed {
			t.Errorf("Write after Close = %v, want %v", err, os.ErrClosed)
		}
	})
}

func TestNothingWrittenStoresNothing(t *testing.T) {
	t.Parallel()
	var m memory
	if err := Open(t.Context(), m.config(strings.ToUpper)).Close(t.Context(), t.Context()); err != nil || len(m.chunks) > 0 {
		t.Errorf("Close = %v with %d chunks", err, len(m.chunks))
	}
}

var secrets = regexp.MustCompile(`tok_[a-z0-9]{8,}`)

func mask(s string) string { return secrets.ReplaceAllString(s, "[x]") }

func TestOutputThatCannotBeRedactedIsDropped(t *testing.T) {
	t.Parallel()
	var m memory
	w := Open(t.Context(), m.config(func(s string) string {
		if strings.Contains(s, "bad") {
			panic("broken rule")
		}
		return s
	}))
	write(t, w, "good\n", "bad secret\n", "fine\n", "bad again")
	if err := w.Close(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	const dropped = "[nofx] output dropped: it could not be redacted\n"
	if got, want := m.log(t), "good\n"+dropped+"fine\n"+dropped; got != want {
		t.Errorf("log = %q, want %q", got, want)
	}
}

func TestLogIsCapped(t *testing.T) {
	t.Parallel()
	var m memory
	w := Open(t.Context(), m.config(func(s string) string { return s }))
	line := strings.Repeat("y", 1023) + "\n"
	for range 2 * maxBytes / len(line) {
		write(t, w, line)
	}
	if err := w.Close(t.Context(), t.Context()); err != nil {
		t.Errorf("Close = %v, want nil: a cap is no loss", err)
	}
	got := m.log(t)
	if len(got) != maxBytes+len(capped) || !strings.HasSuffix(got, line+capped) {
		t.Errorf("log has %d bytes and ends in %q, want %d and the marker", len(got), got[len(got)-100:], maxBytes+len(capped))
	}
}

func TestFailuresAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		puts, records := 0, 0
		m := memory{
			put:    func(context.Context, string) error { puts++; return failing(puts < 5) },
			record: func(Chunk) error { records++; return failing(records < 5) },
		}
		w := Open(t.Context(), m.config(nil))
		write(t, w, "kept\n")
		if err := w.Close(t.Context(), t.Context()); err != nil {
			t.Errorf("Close = %v", err)
		}
		if got := m.log(t); got != "kept\n" || puts != 5 || records != 5 {
			t.Errorf("log = %q after %d puts and %d records, want 5 of each", got, puts, records)
		}
	})
}

var errDown = errors.New("storage is down")

func failing(yes bool) error {
	if yes {
		return errDown
	}
	return nil
}

func TestDownStorageCostsTheLogNotTheStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{put: func(context.Context, string) error { return errDown }}
		w := Open(t.Context(), m.config(nil))
		start := time.Now()
		const size = 4 << 20
		for range size >> 10 {
			write(t, w, strings.Repeat("z", 1023)+"\n")
		}
		if took := time.Since(start); took > 2*stall {
			t.Errorf("writing took %v, want at most one stall of %v", took, stall)
		}
		if len(w.pending) > bufferBytes {
			t.Errorf("%d bytes are held, want at most %d", len(w.pending), bufferBytes)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := w.Close(t.Context(), ctx)
		if !errors.Is(err, errDown) || !strings.Contains(err.Error(), fmt.Sprint(size)+" bytes") {
			t.Errorf("Close = %v, want all %d bytes lost", err, size)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("Close returned after %v", took)
		}
	})
}

func TestGapIsMarkedWhenStorageIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		m := memory{put: func(ctx context.Context, _ string) error {
			select {
			case <-back:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		w := Open(t.Context(), m.config(nil))
		line := strings.Repeat("z", 1023) + "\n"
		for range 3 << 10 {
			write(t, w, line)
		}
		close(back)
		time.Sleep(time.Minute)
		write(t, w, "after\n")
		err := w.Close(t.Context(), t.Context())
		got := m.log(t)
		kept := strings.Count(got, line)
		marker := fmt.Sprintf("%d bytes of output are missing here", 3<<20-kept<<10)
		if err == nil || !strings.Contains(got, marker) || !strings.HasSuffix(got, "after\n") {
			t.Errorf("Close = %v, log of %d bytes ends in %q, want the marker %q and what came after", err, len(got), got[len(got)-150:], marker)
		}
	})
}

// What storage never took is marked at the end of the log, whatever was stored before it,
// and what only was late is not.
func TestWhatIsLostIsMarked(t *testing.T) {
	for name, tt := range map[string]struct {
		refuses func(key string) bool
		text    []string // a second apart
		stored  string
		size    int64 // that was marked; 0: no mark
	}{
		"nothing is lost":    {func(string) bool { return false }, []string{"one\n", "two\n"}, "one\ntwo\n", 0},
		"all of it":          {func(string) bool { return true }, []string{"one\n", "two\n"}, "", 8},
		"the end":            {func(key string) bool { return key != "log/7-1" }, []string{"one\n", "two\n", "three\n"}, "one\n", 14},
		"more than is held":  {func(string) bool { return true }, []string{strings.Repeat("z", bufferBytes), "two\n", "three\n"}, "", bufferBytes + 10},
		"one is never heard": {func(key string) bool { return key == "log/7-2" }, []string{"one\n", "two\n"}, "one\n", 8},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := memory{put: func(_ context.Context, key string) error { return failing(tt.refuses(key)) }}
				w := Open(t.Context(), m.config(nil))
				for _, text := range tt.text {
					write(t, w, text)
					time.Sleep(2 * time.Second)
				}
				patience, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := w.Close(t.Context(), patience)
				if got := m.log(t); got != tt.stored || (err != nil) != (tt.size > 0) {
					t.Errorf("log = %q, Close() = %v, want %q, an error: %v", got, err, tt.stored, tt.size > 0)
				}
				if want := []int64{tt.size, tt.size}; tt.size > 0 && !slices.Equal(m.marks, want) || tt.size == 0 && m.marks != nil {
					t.Errorf("marks = %v, want %v: one that is repeated, or none for 0", m.marks, want)
				}
			})
		})
	}
}

func TestFencedLogEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{record: func(c Chunk) error {
			if c.N == 2 {
				return fault.New(fault.Fenced, "", "the lease is lost")
			}
			return nil
		}}
		w := Open(t.Context(), m.config(nil))
		write(t, w, "one\n")
		time.Sleep(2 * time.Second)
		write(t, w, "two\n")
		time.Sleep(2 * time.Second)
		write(t, w, "three\n")
		start := time.Now()
		if err := w.Close(t.Context(), t.Context()); !errors.Is(err, fault.Fenced) || time.Since(start) > 0 {
			t.Errorf("Close = %v after %v, want %v at once", err, time.Since(start), fault.Fenced)
		}
		if got := m.log(t); got != "one\n" || len(m.objects) != 2 || m.marks != nil {
			t.Errorf("log = %q with %d objects and marks %v, want one chunk, no third object and no mark", got, len(m.objects), m.marks)
		}
	})
}

func TestEndOfTheLeaseEndsTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		ctx, cancel := context.WithCancelCause(t.Context())
		w := Open(ctx, m.config(nil))
		write(t, w, "lost\n")
		cancel(fault.Fenced)
		if err := w.Close(t.Context(), t.Context()); !errors.Is(err, fault.Fenced) || len(m.objects) > 0 {
			t.Errorf("Close = %v with %d objects, want %v and none", err, len(m.objects), fault.Fenced)
		}
	})
}

func TestConcurrentWrites(t *testing.T) {
	t.Parallel()
	var m memory
	w := Open(t.Context(), m.config(mask))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 500 {
				write(t, w, strings.Repeat(string(rune('a'+i)), 60)+"\n")
			}
		})
	}
	wg.Wait()
	if err := w.Close(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	got := m.log(t)
	for i := range 8 {
		if n := strings.Count(got, strings.Repeat(string(rune('a'+i)), 60)+"\n"); n != 500 {
			t.Errorf("%d whole lines of writer %d, want 500", n, i)
		}
	}
}
