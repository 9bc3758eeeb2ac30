package snapshot

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A workspace of 10,000 files in 100 directories, of which 100 change in as many
// directories: the figure of the performance page, beside git on the same tree in
// the same run.
const (
	benchDirs  = 100
	benchFiles = 100 // per directory
)

type bench struct {
	*testing.B
	ctx   context.Context
	dir   string
	w     *Workspace
	x     *memoryIndex
	rand  *rand.Rand
	first *Scan
}

func newBench(b *testing.B) *bench {
	store, x := newStore()
	dir := b.TempDir()
	n := &bench{B: b, ctx: b.Context(), dir: dir, w: store.Workspace(x.tenant, dir), x: x, rand: rand.New(rand.NewPCG(1, 2))}
	n.w.now = func() time.Time { return time.Now().Add(time.Hour) } // nothing is as young as the racy rule minds
	for d := range benchDirs {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("d", d)), 0o755); err != nil {
			b.Fatal(err)
		}
		for f := range benchFiles {
			n.rewrite(d, f)
		}
	}
	n.first, _ = checkpoint(n.ctx, b, n.w, x)
	return n
}

// rewrite makes a file of about 4 KiB of text that compresses as code does.
func (n *bench) rewrite(d, f int) (size int) {
	var text strings.Builder
	for text.Len() < 4<<10 {
		fmt.Fprintf(&text, "func f%d(x int) int { return x + %d }\n", n.rand.IntN(1000), n.rand.IntN(1000000))
	}
	p := filepath.Join(n.dir, fmt.Sprint("d", d), fmt.Sprintf("file%d.go", f))
	if err := os.WriteFile(p, []byte(text.String()), 0o644); err != nil {
		n.Fatal(err)
	}
	return text.Len()
}

func (n *bench) change() {
	for d := range benchDirs {
		n.rewrite(d, n.rand.IntN(benchFiles))
	}
}

func (n *bench) git(args ...string) time.Duration {
	cmd := exec.Command("git", args...)
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), "GIT_DIR="+n.dir+".git", "GIT_WORK_TREE="+n.dir)
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		n.Fatalf("git %v: %v: %s (this benchmark needs git: apt-get install git)", args, err, out)
	}
	return time.Since(start)
}

func BenchmarkCheckpoint(b *testing.B) {
	n := newBench(b)
	n.git("init", "-q")
	n.git("add", "-A")
	n.git("write-tree")
	var git, scanning time.Duration
	var sent int64
	for b.Loop() {
		b.StopTimer()
		n.change()
		b.StartTimer()

		start := time.Now()
		scan, err := n.w.Scan(n.ctx, nil)
		if err != nil {
			b.Fatal(err)
		}
		scanning += time.Since(start)
		saved, err := n.w.Save(n.ctx, scan)
		if err != nil {
			b.Fatal(err)
		}
		n.x.commit(saved)
		n.w.Committed(scan)

		b.StopTimer()
		sent += saved.Bytes
		git += n.git("add", "-A") + n.git("write-tree")
		b.StartTimer()
	}
	per := func(d time.Duration) float64 { return float64(d.Milliseconds()) / float64(b.N) }
	b.ReportMetric(per(b.Elapsed()), "ms/op")
	b.ReportMetric(per(scanning), "scan-ms/op")
	b.ReportMetric(per(git), "git-ms/op")
	b.ReportMetric(float64(b.Elapsed())/float64(git), "times-git")
	b.ReportMetric(float64(sent)/float64(b.N), "B-sent/op")
}

func BenchmarkCheckpointUnchanged(b *testing.B) {
	n := newBench(b)
	for b.Loop() {
		if _, saved := checkpoint(n.ctx, b, n.w, n.x); saved.Bytes != 0 {
			b.Fatalf("Save(unchanged) = %d bytes, want 0", saved.Bytes)
		}
	}
}

func BenchmarkCheckpointFirst(b *testing.B) {
	n := newBench(b)
	for b.Loop() {
		store, x := newStore()
		checkpoint(n.ctx, b, store.Workspace(x.tenant, n.dir), x)
	}
}

// The worker holds the parent's tree and goes from one to the other.
func BenchmarkRestoreHeld(b *testing.B) {
	n := newBench(b)
	n.change()
	second, _ := checkpoint(n.ctx, b, n.w, n.x)
	for i := 0; b.Loop(); i++ {
		restore(n.ctx, b, n.w, []*Scan{n.first, second}[i%2].Tree)
	}
}

func BenchmarkRestoreNew(b *testing.B) {
	n := newBench(b)
	for b.Loop() {
		b.StopTimer()
		dir, err := os.MkdirTemp(b.TempDir(), "")
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		restore(n.ctx, b, n.w.store.Workspace(n.x.tenant, dir), n.first.Tree)
		b.StopTimer()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
