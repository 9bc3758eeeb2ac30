package diff

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"nofx.dev/shared/telemetry"
)

// BenchmarkCompute compares two trees of 10,000 files of 4 KiB, of which 100 differ wholly
// or in a line.
func BenchmarkCompute(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	content := func() item {
		var text strings.Builder
		for text.Len() < 4096 {
			fmt.Fprintf(&text, "func f%d(x int) int { return x + %d }\n", r.IntN(1000), r.IntN(1_000_000))
		}
		return file(text.String())
	}
	from := workspace{}
	for i := range 10_000 {
		from[fmt.Sprintf("d%d/f%d.go", i/100, i%100)] = content()
	}
	for name, edit := range map[string]func(item) item{
		"rewritten": func(item) item { return content() },
		"one line":  func(it item) item { return file(strings.Replace(it.content, "return x", "return y", 1)) },
	} {
		to := maps.Clone(from)
		for d := range 100 {
			p := fmt.Sprintf("d%d/f%d.go", d, d)
			to[p] = edit(from[p])
		}
		m := newMemory()
		f, o := Checkpoint{ID: "ckpt_1", Tree: m.add(from)}, Checkpoint{ID: "ckpt_2", Tree: m.add(to)}
		redactor := telemetry.NewRedactor("a secret of the run", "another secret")
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				doc, err := Compute(b.Context(), m.source(), f, o, Options{Redactor: redactor})
				if err != nil || len(doc.Files) != 100 {
					b.Fatalf("Compute() = %d files, %v, want 100", len(doc.Files), err)
				}
			}
		})
	}
}
