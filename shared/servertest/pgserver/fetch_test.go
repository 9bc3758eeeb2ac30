package pgserver

import (
	"archive/tar"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive writes a package with the given files.
func archive(t *testing.T, files map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "package.tgz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	for name, content := range files {
		h := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, close := range []func() error{tw.Close, zw.Close, f.Close} {
		if err := close(); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "native")
	err := unpack(archive(t, map[string]string{
		"package/package.json":                  "{}",
		"package/native/bin/postgres":           "program",
		"package/native/lib/libpq.so.5.15":      "library",
		"package/native/lib/pg/pgxs/Makefile":   "not needed",
		"package/native/pg-symlinks.json":       `[{"source":"native/lib/libpq.so.5.15","target":"native/lib/libpq.so.5"}]`,
		"package/native/share/timezone/Etc/UTC": "zone",
	}), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"bin/postgres": "program", "lib/libpq.so.5": "library", "share/timezone/Etc/UTC": "zone",
		"package.json": "", "lib/pg/pgxs/Makefile": "",
	} {
		got, _ := os.ReadFile(filepath.Join(dir, name))
		if string(got) != want {
			t.Errorf("unpacked %s = %q, want %q", name, got, want)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/postgres")); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("mode of bin/postgres = %v, %v, want executable", info, err)
	}
}

func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{
		"name": {"package/native/../../outside": "x"},
		"link": {"package/native/pg-symlinks.json": `[{"source":"native/a","target":"native/../../outside"}]`},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unpack(archive(t, files), filepath.Join(dir, "sub", "native")); err == nil {
			t.Errorf("unpack(hostile %s) = nil, want an error", name)
		}
		if _, err := os.Lstat(filepath.Join(dir, "outside")); err == nil {
			t.Errorf("unpack(hostile %s) wrote outside its directory", name)
		}
	}
}

func TestCheckSHA512(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	const abc = "3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw=="
	if err := checkSHA512(path, abc); err != nil {
		t.Errorf("checkSHA512(abc, its sum) = %v, want nil", err)
	}
	if err := checkSHA512(path, strings.ToLower(abc)); err == nil {
		t.Error("checkSHA512(abc, another sum) = nil, want an error")
	}
}

func TestProgramsOfAnotherVersion(t *testing.T) {
	t.Parallel()
	_, err := programs(t.Context(), "9", func(string) {})
	if err == nil || !strings.Contains(err.Error(), "written by Postgres 9") {
		t.Errorf("programs(data of version 9) = %v, want an error that says so", err)
	}
}
