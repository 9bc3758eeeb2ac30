package stream

import (
	"testing"

	"pgregory.net/rapid"
)

// TestTopic checks the ring against a list of all frames: a reader gets exactly
// what lies between its cursor and the head, or is told that it fell out, which
// happens only to those more than a ring behind.
func TestTopic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		begin := rapid.Int64Range(0, 50).Draw(t, "begin")
		ring := newTopic(source{}, Cursor{Seq: begin})
		head := begin
		for range rapid.IntRange(0, 12).Draw(t, "adds") {
			var frames []*frame
			for range rapid.IntRange(0, 120).Draw(t, "frames") {
				head++
				frames = append(frames, &frame{at: Cursor{Seq: head}})
			}
			_, _, changed, _ := ring.after(Cursor{Seq: head})
			ring.add(frames, Cursor{Seq: head})
			if c := changed; c != nil && len(frames) > 0 {
				select {
				case <-c:
				default:
					t.Fatalf("add of %d frames woke nobody", len(frames))
				}
			}
			at := rapid.Int64Range(0, head+5).Draw(t, "at")
			got, next, _, ok := ring.after(Cursor{Seq: at})
			oldest := max(begin, head-ringSize)
			switch {
			case ok != (at >= oldest):
				t.Fatalf("after(%d) of %d…%d = ok %v", at, oldest, head, ok)
			case ok && int64(len(got)) != max(0, head-at):
				t.Fatalf("after(%d) of %d…%d = %d frames, want %d", at, oldest, head, len(got), max(0, head-at))
			case ok && next.Seq != max(at, head):
				t.Fatalf("after(%d) leads to %d, want %d", at, next.Seq, max(at, head))
			}
			for i, f := range got {
				if f.at.Seq != at+int64(i)+1 {
					t.Fatalf("after(%d)[%d] = %d", at, i, f.at.Seq)
				}
			}
		}
	})
}
