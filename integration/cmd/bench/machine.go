package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// machine is where figures come from; without it they mean nothing.
type machine struct {
	OS        string            `json:"os"`
	CPU       string            `json:"cpu,omitempty"`
	Cores     int               `json:"cores"`
	MemoryMiB int               `json:"memory_mib,omitempty"`
	Load      string            `json:"load,omitempty"` // of the last minute, as we began
	FsyncMS   float64           `json:"fsync_ms"`       // median of a small write to the disk of the database
	Go        string            `json:"go"`
	Git       string            `json:"git,omitempty"`
	Commit    string            `json:"commit,omitempty"`
	Postgres  string            `json:"postgres"`
	Settings  map[string]string `json:"settings"` // of Postgres
	Limits    map[string]string `json:"limits"`   // of the gateway, raised
}

// told are the settings of Postgres that decide about figures.
var told = []string{"fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers", "max_connections"}

func inspect(ctx context.Context, dir string, db *pgxpool.Pool) (m machine, err error) {
	m = machine{
		OS: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Go: strings.TrimPrefix(runtime.Version(), "go"),
		CPU: field("/proc/cpuinfo", "model name"), Load: first("/proc/loadavg"),
		Git: strings.TrimPrefix(output(ctx, "git", "--version"), "git version "), Commit: output(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12"),
		Limits: raised, Settings: map[string]string{},
	}
	var kib int
	if n, _ := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d kB", &kib); n == 1 {
		m.MemoryMiB = kib >> 10
	}
	if m.FsyncMS, err = fsync(dir); err != nil {
		return m, err
	}
	rows, err := db.Query(ctx, `SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY($1) OR name = 'server_version'`, told)
	if err != nil {
		return m, err
	}
	var name, value string
	if _, err := pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		m.Settings[name] = value
		return nil
	}); err != nil {
		return m, err
	}
	m.Postgres = m.Settings["server_version"]
	delete(m.Settings, "server_version")
	return m, nil
}

// durable reports whether what Postgres answers for survives a loss of power.
func (m machine) durable() bool {
	return m.Settings["fsync"] == "on" && m.Settings["synchronous_commit"] == "on"
}

func (m machine) String() string {
	pairs := func(of map[string]string) string {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(of)) {
			all = append(all, k+"="+of[k])
		}
		return strings.Join(all, " ")
	}
	return fmt.Sprintf("machine   %d cores (%s), %d MiB, %s, load %s, fsync %.2f ms\nsoftware  commit %s, Go %s, Postgres %s, git %s\nsettings  %s; gateway limits raised: %s\n",
		m.Cores, m.CPU, m.MemoryMiB, m.OS, m.Load, m.FsyncMS, m.Commit, m.Go, m.Postgres, m.Git, pairs(m.Settings), pairs(m.Limits))
}

// fsync returns how many milliseconds a page takes to the disk that dir is on: a
// commit takes no less.
func fsync(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page, took := make([]byte, 8<<10), make([]float64, 50)
	for i := range took {
		began := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took[i] = milliseconds(time.Since(began))
	}
	return median(took), nil
}

// field returns the value of the first line `name : value` of a file, or "".
func field(path, name string) string {
	raw, _ := os.ReadFile(path)
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// first returns the first word of a file, or "".
func first(path string) string {
	raw, _ := os.ReadFile(path)
	word, _, _ := strings.Cut(string(raw), " ")
	return word
}

// output returns what a program prints, or "" when it cannot be asked.
func output(ctx context.Context, name string, args ...string) string {
	out, _ := exec.CommandContext(ctx, name, args...).Output()
	return strings.TrimSpace(string(out))
}
