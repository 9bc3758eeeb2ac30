package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is what /proc counts in: USER_HZ, which Linux has promised to be 100.
const tick = 10 * time.Millisecond

// group is processes whose CPU time is told together: those that roots names
// and, when it says so, all they have started.
type group struct {
	name  string
	what  string
	tree  bool
	roots func() []int
}

// meter reads the CPU time of groups from /proc. On a machine that others use
// too the time that work takes says more about the machine than the work does;
// the CPU that it takes says more about the work.
type meter struct{ groups []group }

// newMeter knows the processes of a stack, its database and this process. It
// returns an error where processes cannot be looked at: another system than
// Linux, or a database on another machine.
func (b *bench) newMeter(ctx context.Context) (*meter, error) {
	var backend int
	if err := b.nofx.db.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return nil, err
	}
	s, err := readStat(backend)
	if err != nil {
		return nil, err
	}
	if s.command != "postgres" {
		return nil, errors.New("the database runs somewhere else")
	}
	m := &meter{groups: []group{
		{"postgres", "Postgres", true, func() []int { return []int{s.parent} }},
		{"gateway", "gateway", true, func() []int { return []int{b.stack.Gateway.PID()} }},
		{"workers", "workers", true, func() (pids []int) {
			for _, w := range b.stack.Workers() {
				pids = append(pids, w.PID())
			}
			return pids
		}},
		{"load", "load generator", false, func() []int { return []int{os.Getpid()} }},
	}}
	return m, nil
}

// usage is milliseconds of CPU by name of a group.
type usage map[string]float64

// read is what each group has used since its processes began. What a process
// used that has ended is in its parent's count, so nothing is missed.
func (m *meter) read() (usage, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	used := usage{}
	for _, g := range m.groups {
		used[g.name] = 0
		for _, pid := range g.roots() {
			if g.tree {
				used[g.name] += all.tree(pid)
			} else {
				used[g.name] += milliseconds(all[pid].own)
			}
		}
	}
	return used, nil
}

// per is what each group used from before to after, for each of n pieces of
// work.
func (after usage) per(before usage, n int) usage {
	each := usage{}
	for name, ms := range after {
		each[name] = (ms - before[name]) / float64(n)
	}
	return each
}

func (u usage) total() (ms float64) {
	for _, v := range u {
		ms += v
	}
	return ms
}

// costs are the usages of several rounds.
type costs []usage

func (c costs) of(name string) (all []float64) {
	for _, u := range c {
		all = append(all, u[name])
	}
	return all
}

func (c costs) totals() (all []float64) {
	for _, u := range c {
		all = append(all, u.total())
	}
	return all
}

// stat is what /proc tells of a process.
type stat struct {
	command     string
	parent      int
	own, waited time.Duration // CPU of itself, and of children that have ended
}

type table map[int]stat

// tree is what pid and all its descendants have used, in milliseconds.
func (t table) tree(pid int) float64 {
	s, ok := t[pid]
	if !ok {
		return 0
	}
	ms := milliseconds(s.own + s.waited)
	for child, c := range t {
		if c.parent == pid {
			ms += t.tree(child)
		}
	}
	return ms
}

// processes reads all there are.
func processes() (table, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	t := table{}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		pid, s, err := parseStat(string(raw))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		t[pid] = s
	}
	if len(t) == 0 {
		return nil, errors.New("this system has no /proc")
	}
	return t, nil
}

func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	_, s, err := parseStat(string(raw))
	return s, err
}

// parseStat reads the line of proc(5). A command may hold spaces and brackets,
// so the fields begin after the last bracket.
func parseStat(line string) (pid int, s stat, err error) {
	open, end := strings.Index(line, " ("), strings.LastIndex(line, ")")
	if open < 0 || end < open {
		return 0, s, fmt.Errorf("%q names no command", line)
	}
	s.command = line[open+2 : end]
	fields := strings.Fields(line[end+1:])
	if len(fields) < 15 {
		return 0, s, fmt.Errorf("%q has %d fields after the command, want 15 at least", line, len(fields))
	}
	var n [6]int
	for i, text := range []string{line[:open], fields[1], fields[11], fields[12], fields[13], fields[14]} {
		if n[i], err = strconv.Atoi(text); err != nil {
			return 0, s, fmt.Errorf("read %q: %w", line, err)
		}
	}
	s.parent = n[1]
	s.own, s.waited = time.Duration(n[2]+n[3])*tick, time.Duration(n[4]+n[5])*tick
	return n[0], s, nil
}

// during does a load of runs of s and returns what each run that ended in it
// cost, from the first moment to the last run's end: nil when CPU cannot be
// read.
func (b *bench) during(ctx context.Context, s system, load func() error) (usage, error) {
	if b.meter == nil {
		return nil, load()
	}
	from, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	before, err := b.meter.read()
	if err != nil {
		return nil, err
	}
	if err := load(); err != nil {
		return nil, err
	}
	after, err := b.meter.read()
	if err != nil {
		return nil, err
	}
	to, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	n, err := s.finished(ctx, from, to)
	if err == nil && n == 0 {
		err = errors.New("no run ended")
	}
	return after.per(before, n), err
}

// addCPU reports what each piece of work cost us, by group, and beside it the
// chain and the peer, whose workers are in the process that loads them. name
// begins the figures' names, what says what the piece is.
func (b *bench) addCPU(name, what string, ours, theirs, peers turn) {
	if b.meter == nil {
		return
	}
	for _, g := range b.meter.groups {
		f := figure{Name: name + "-" + g.name, What: fmt.Sprintf("CPU of %s, %s", what, g.what), Unit: "ms", Stat: "median", Samples: ours.costs.of(g.name)}
		if g.name == "postgres" {
			f.Beside = beside("chain on River", theirs.costs.of(g.name)).and(b.peer.name(), peers.costs.of(g.name))
		}
		b.report.add(f)
	}
	b.report.add(figure{
		Name: name + "-total", What: fmt.Sprintf("CPU of %s, all", what), Unit: "ms", Stat: "median", Samples: ours.costs.totals(),
		Beside: beside("chain on River", theirs.costs.totals()).and(b.peer.name(), peers.costs.totals()),
	})
}
