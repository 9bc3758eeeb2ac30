package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// toolchain are the folders whose programs and libraries a command may use. Some are links
// into others on most systems.
var toolchain = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt"}

// settings are the paths of the machine's configuration that programs commonly need and
// that hold no secret; each may be missing.
var settings = []string{
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/nsswitch.conf", "/etc/localtime", "/etc/timezone",
	"/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted",
	"/etc/protocols", "/etc/services", "/etc/mime.types", "/etc/magic", "/etc/os-release", "/etc/debian_version", "/etc/inputrc",
	"/etc/bash.bashrc", "/etc/profile", "/etc/fonts", "/etc/perl", "/etc/java", "/etc/maven", "/etc/python3",
}

// users are who there is, for programs that ask. In tier 2 there are lists of their own.
var users = []string{"/etc/passwd", "/etc/group"}

// names are what the names of hosts are looked up with.
var names = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf"}

// readable returns the paths that c may read in tier 1. /proc is among them: what it tells
// of other processes' memory and environment is kept from the command by Landlock.
func (s *Sandbox) readable(c Command) []string {
	all := slices.Concat(toolchain, settings, users, []string{"/proc"}, s.cfg.Readable, c.Readable)
	if c.Network {
		all = append(all, names...)
	}
	return all
}

// The ids of the command in its namespaces, which are the worker's user outside.
const uid = 1000

// The names of the helper, and of the sandbox's own files, in the namespaces.
const (
	helperInside = "/run/nofx-sandbox"
	proxyInside  = "/run/nofx-proxy"
	passwdFile   = "passwd"
	groupFile    = "group"
	hostsFile    = "hosts"
)

// privateTmp is the size of a command's /tmp, in bytes; it is memory. TMPDIR is on the disk.
const privateTmp = 1 << 30

// bwrap returns the command line of bubblewrap that runs the helper in namespaces of its own
// (SECURITY.md §12), in which it is the first process: the others end with it.
func (s *Sandbox) bwrap(c Command) []string {
	argv := []string{s.cfg.Bwrap, "--unshare-all", "--unshare-user", "--uid", strconv.Itoa(uid), "--gid", strconv.Itoa(uid),
		"--disable-userns", "--new-session", "--as-pid-1", "--hostname", "nofx", "--clearenv"}
	if c.Network {
		argv = append(argv, "--share-net")
	}
	for _, kv := range helperEnv {
		name, value, _ := strings.Cut(kv, "=")
		argv = append(argv, "--setenv", name, value)
	}
	argv = append(argv, "--proc", "/proc", "--dev", "/dev", "--size", strconv.Itoa(privateTmp), "--perms", "1777", "--tmpfs", "/tmp")
	for _, dir := range toolchain {
		if target, err := os.Readlink(dir); err == nil {
			argv = append(argv, "--symlink", target, dir)
		} else {
			argv = append(argv, "--ro-bind-try", dir, dir)
		}
	}
	readable := slices.Concat(settings, s.cfg.Readable, c.Readable)
	if c.Network {
		readable = append(readable, names...)
	} else {
		argv = append(argv, "--ro-bind", filepath.Join(s.dir, hostsFile), "/etc/hosts")
	}
	argv = append(argv, "--ro-bind", filepath.Join(s.dir, passwdFile), "/etc/passwd", "--ro-bind", filepath.Join(s.dir, groupFile), "/etc/group")
	for _, path := range readable {
		argv = append(argv, "--ro-bind-try", path, path)
	}
	for _, path := range c.Writable {
		argv = append(argv, "--bind", path, path)
	}
	if c.Proxy != "" {
		argv = append(argv, "--ro-bind", c.Proxy, proxyInside)
	}
	return append(argv, "--ro-bind", s.cfg.Helper, helperInside, "--chdir", "/", "--", helperInside)
}
