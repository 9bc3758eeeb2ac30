package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = " S 7 42 42 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 5 6 7"
	for _, c := range []struct {
		line string
		pid  int
		want stat
		bad  string
	}{
		{line: "42 (postgres)" + rest, pid: 42, want: stat{command: "postgres", parent: 7, own: 330 * time.Millisecond, waited: 770 * time.Millisecond}},
		{line: "42 (a (b) c)" + rest, pid: 42, want: stat{command: "a (b) c", parent: 7, own: 330 * time.Millisecond, waited: 770 * time.Millisecond}},
		{line: "42 postgres" + rest, bad: "names no command"},
		{line: "42 (postgres) S 7", bad: "2 fields"},
		{line: "42 (postgres)" + strings.Replace(rest, "22", "x", 1), bad: "invalid syntax"},
	} {
		pid, got, err := parseStat(c.line)
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("parseStat(%q) = %v, want an error with %q", c.line, err, c.bad)
			}
			continue
		}
		if err != nil || pid != c.pid || got != c.want {
			t.Errorf("parseStat(%q) = %d, %+v, %v, want %d, %+v", c.line, pid, got, err, c.pid, c.want)
		}
	}
}

func TestTableTree(t *testing.T) {
	t.Parallel()
	all := table{
		1: {own: time.Hour},
		2: {parent: 1, own: 1 * time.Millisecond, waited: 10 * time.Millisecond},
		3: {parent: 2, own: 100 * time.Millisecond},
		4: {parent: 3, own: 1000 * time.Millisecond, waited: 10 * time.Second},
		5: {parent: 1, own: time.Hour},
	}
	if got := all.tree(2); got != 11111 {
		t.Errorf("tree(2) = %v ms, want 11111: itself, its children and theirs, ended ones too", got)
	}
	if got := all.tree(6); got != 0 {
		t.Errorf("tree of a process that is not there = %v, want 0", got)
	}
}

// What a child uses counts for its parent's tree, while it runs and after.
func TestMeterUsed(t *testing.T) {
	t.Parallel()
	if _, err := processes(); err != nil {
		t.Skip(err)
	}
	parent := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo worked; read ended")
	in, err := parent.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	pid := parent.Process.Pid
	m := &meter{groups: []group{
		{name: "child", roots: func() []int { return []int{pid} }},
		{name: "nobody", roots: func() []int { return []int{0} }},
	}}
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	used := m.used(all, []int{pid, 0})
	if got := used[postgres]; got != milliseconds(all[pid].own) {
		t.Errorf("used by sessions = %v, want what the only one that there is has used", got)
	}
	if used["child"] < 20 || used["nobody"] != 0 {
		t.Errorf("used = %v, want 20 ms or more of a child that has counted to 400,000, and 0 of nobody", used)
	}
	in.Close()
	parent.Wait() // read fails at the end of its input
	if all, err = processes(); err != nil {
		t.Fatal(err)
	}
	if got := milliseconds(all[os.Getpid()].waited); got < used["child"] {
		t.Errorf("children that have ended = %v ms, want the %v of the child at least", got, used["child"])
	}
}

func TestUsagePer(t *testing.T) {
	t.Parallel()
	got := usage{"a": 150, "b": 30}.per(usage{"a": 50, "b": 30}, 20)
	if diff := cmp.Diff(usage{"a": 5, "b": 0}, got); diff != "" {
		t.Errorf("per (-want +got):\n%s", diff)
	}
	c := costs{{"a": 5, "b": 1}, {"a": 7, "b": 2}}
	if diff := cmp.Diff([]float64{5, 7}, c.of("a")); diff != "" {
		t.Errorf("of(a) (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]float64{6, 9}, c.totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}

// The load is charged by the runs that ended in it, not by those before. It is
// not parallel: what other tests of this process take would be charged as well.
func TestDuring(t *testing.T) {
	if _, err := processes(); err != nil {
		t.Skip(err)
	}
	c := newTestChain(t)
	if err := oneByOne(t.Context(), c, 2, steps); err != nil {
		t.Fatal(err)
	}
	m := &meter{groups: []group{{name: "load", roots: func() []int { return []int{os.Getpid()} }}}}
	var own float64
	cost, err := m.during(t.Context(), c, func() error {
		before, err := processes()
		if err != nil {
			return err
		}
		loading, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := hold(loading, c, 8, steps); err != nil {
			return err
		}
		if err := settle(t.Context(), c); err != nil {
			return err
		}
		after, err := processes()
		own = milliseconds(after[os.Getpid()].own - before[os.Getpid()].own)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := float64(c.submitted.Load() - 2)
	if got := cost["load"] * n; got < own || got > own+200 {
		t.Errorf("during says %v ms for each of %v runs, which is %v, want %v or a little more", cost["load"], n, got, own)
	}
	if cost[postgres] <= 0 {
		t.Errorf("during says %v ms of Postgres for each run, want some", cost[postgres])
	}
	if cost, err := m.during(t.Context(), c, func() error { return nil }); err == nil {
		t.Errorf("during of no load = %v, want an error", cost)
	}
	m = nil
	called := false
	if cost, err := m.during(t.Context(), c, func() error { called = true; return nil }); cost != nil || err != nil || !called {
		t.Errorf("during without a meter = %v, %v, called %v, want the load alone", cost, err, called)
	}
}
