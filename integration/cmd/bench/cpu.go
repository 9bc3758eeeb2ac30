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
//
// All systems share one Postgres server, so what it uses is told by sessions:
// those of a system's database, without this program's own. What the server does
// for all, such as writing dirty pages, is nobody's.
type meter struct{ groups []group }

// postgres is the name of what a system's sessions use.
const postgres = "postgres"

// newMeter knows the processes of a stack and this process. It returns an error
// where processes cannot be looked at: another system than Linux, or a database
// on another machine.
func newMeter(ctx context.Context, of *side) (*meter, error) {
	var backend int
	if err := of.nofx.db.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return nil, err
	}
	s, err := readStat(backend)
	if err != nil {
		return nil, err
	}
	if s.command != "postgres" {
		return nil, errors.New("the database runs somewhere else")
	}
	return &meter{groups: []group{
		{"gateway", "gateway", true, func() []int { return []int{of.stack.Gateway.PID()} }},
		{"workers", "workers", true, func() (pids []int) {
			for _, w := range of.stack.Workers() {
				pids = append(pids, w.PID())
			}
			return pids
		}},
		{"load", "load generator", false, func() []int { return []int{os.Getpid()} }},
	}}, nil
}

// usage is milliseconds of CPU by name of a group.
type usage map[string]float64

// used returns what each group has used since its processes began, as all tells, and
// the sessions of Postgres beside them. What a process used that has ended is in
// its parent's count, so nothing of a tree is missed; a session that has ended is.
func (m *meter) used(all table, sessions []int) usage {
	used := usage{}
	for _, pid := range sessions {
		used[postgres] += milliseconds(all[pid].own)
	}
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
	return used
}

// per returns what each group used since before, for each of n pieces of
// work.
func (u usage) per(before usage, n int) usage {
	each := usage{}
	for name, ms := range u {
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

// tree returns what pid and all its descendants have used, in milliseconds.
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
func (m *meter) during(ctx context.Context, s system, load func() error) (usage, error) {
	if m == nil {
		return nil, load()
	}
	from, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	used, err := m.around(ctx, s.sessions, load)
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
	return used.per(nil, n), err
}

// around does some work and returns what was used meanwhile, of Postgres by the
// sessions that there are at its end.
func (m *meter) around(ctx context.Context, sessions func(context.Context) ([]int, error), work func() error) (usage, error) {
	before, err := processes()
	if err != nil {
		return nil, err
	}
	if err := work(); err != nil {
		return nil, err
	}
	after, err := processes()
	if err != nil {
		return nil, err
	}
	pids, err := sessions(ctx)
	if err != nil {
		return nil, err
	}
	return m.used(after, pids).per(m.used(before, pids), 1), nil
}

// addCPU reports what each piece of work cost us, by group, and beside it the
// chain and the peer, whose workers are in the process that loads them. name
// begins the figures' names, what says what the piece is.
func (b *bench) addCPU(name, what string, ours, theirs, peers turn) {
	if b.meter == nil {
		return
	}
	for _, g := range append([]group{{name: postgres, what: "Postgres"}}, b.meter.groups...) {
		f := figure{Name: name + "-" + g.name, What: fmt.Sprintf("CPU of %s, %s", what, g.what), Unit: "ms", Stat: "median", Samples: ours.costs.of(g.name)}
		if g.name == postgres {
			f.Beside = beside("chain on River", theirs.costs.of(g.name)).and(b.peer.name(), peers.costs.of(g.name))
		}
		b.report.add(f)
	}
	b.report.add(figure{
		Name: name + "-total", What: fmt.Sprintf("CPU of %s, all", what), Unit: "ms", Stat: "median", Samples: ours.costs.totals(),
		Beside: beside("chain on River", theirs.costs.totals()).and(b.peer.name(), peers.costs.totals()),
	})
}
