package tool

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"nofx.dev/shared/run"
)

// repository is a place that a checkout may be made from.
type repository struct {
	url    string
	scheme string
	folder string // of file addresses
}

// gitHost is a host of NOFX_GIT_ALLOW, perhaps with a port.
var gitHost = regexp.MustCompile(`^([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$`)

// ParseGitAllow returns the entries of NOFX_GIT_ALLOW without the blanks around them.
// One that no address could ever match is an error, which does not show it: it may hold
// a password.
func ParseGitAllow(entries []string) ([]string, error) {
	allow := make([]string, len(entries))
	for i, entry := range entries {
		allow[i] = strings.TrimSpace(entry)
		folder, local := strings.CutPrefix(allow[i], "file:")
		if local && !filepath.IsAbs(folder) || !local && !gitHost.MatchString(allow[i]) {
			return nil, fmt.Errorf("entry %d is neither a host, for example git.example.com or git.example.com:8443, nor a folder, for example file:/srv/git", i+1)
		}
	}
	return allow, nil
}

// repository checks an address against NOFX_GIT_ALLOW. An address with a user or
// password in it is refused, and not repeated: credentials are no plan's matter.
func (b *Box) repository(raw string) (repository, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return repository{}, Failuref(run.ClassInvalid, "the address cannot be read")
	}
	if u.User != nil || strings.Contains(u.Host, "@") {
		return repository{}, Failuref(run.ClassPolicy, "the address holds a user or password; leave them out")
	}
	switch u.Scheme {
	case "https":
		if b.hostAllowed(u) {
			return repository{url: u.String(), scheme: u.Scheme}, nil
		}
		return repository{}, Failuref(run.ClassPolicy, "repositories of %s are not allowed here (NOFX_GIT_ALLOW)", u.Host)
	case "file":
		return b.localRepository(u)
	}
	return repository{}, Failuref(run.ClassPolicy, "repositories are reached by https or file, not by %q", u.Scheme)
}

func (b *Box) hostAllowed(u *url.URL) bool {
	for _, entry := range b.cfg.GitAllow {
		if strings.EqualFold(entry, u.Host) || strings.EqualFold(entry, u.Hostname()) && (u.Port() == "" || u.Port() == "443") {
			return true
		}
	}
	return false
}

// localRepository allows folders that really are, links resolved, inside one of
// the file: entries.
func (b *Box) localRepository(u *url.URL) (repository, error) {
	named := filepath.Clean(u.Path)
	refused := Failuref(run.ClassPolicy, "the repository %s is not in a folder allowed here (NOFX_GIT_ALLOW)", named)
	if (u.Host != "" && u.Host != "localhost") || !filepath.IsAbs(named) {
		return repository{}, refused
	}
	real, err := filepath.EvalSymlinks(named)
	for _, entry := range b.cfg.GitAllow {
		folder, ok := strings.CutPrefix(entry, "file:")
		if !ok {
			continue
		}
		folder = filepath.Clean(strings.TrimPrefix(folder, "//"))
		if err != nil && within(folder, named) {
			return repository{}, Failuref(run.ClassTool, "the repository %s does not exist", named)
		}
		if resolved, e := filepath.EvalSymlinks(folder); err == nil && e == nil && within(resolved, real) {
			address := url.URL{Scheme: "file", Path: real}
			return repository{url: address.String(), scheme: "file", folder: real}, nil
		}
	}
	return repository{}, refused
}

// within reports whether path is folder or below it; both are clean.
func within(folder, path string) bool {
	rest, ok := strings.CutPrefix(path, folder)
	return ok && (rest == "" || rest[0] == os.PathSeparator || strings.HasSuffix(folder, "/"))
}

// config returns all of git's configuration during a checkout.
func (r repository) config() string {
	var c strings.Builder
	c.WriteString(`[core]
	hooksPath = /dev/null
	askPass = true
	fsmonitor = false
[credential]
	helper =
[http]
	followRedirects = false
[protocol]
	allow = never
[protocol "` + r.scheme + `"]
	allow = always
[fetch]
	recurseSubmodules = false
[submodule]
	recurse = false
[gc]
	auto = 0
[maintenance]
	auto = false
[init]
	defaultBranch = main
`)
	if r.folder != "" {
		// The serving end refuses repositories of another owner; this one was
		// allowed by the administrator.
		c.WriteString("[safe]\n")
		for _, dir := range []string{r.folder, filepath.Join(r.folder, ".git")} {
			c.WriteString("\tdirectory = " + quoteConfig(dir) + "\n")
		}
	}
	return c.String()
}

// readable returns the folders of this machine that git reads the repository from: none of a
// remote one. A linked worktree has its objects in the repository that it belongs to.
func (r repository) readable() []string {
	if r.folder == "" {
		return nil
	}
	folders := []string{r.folder}
	link, err := os.ReadFile(filepath.Join(r.folder, ".git"))
	if own, ok := strings.CutPrefix(strings.TrimSpace(string(link)), "gitdir: "); err == nil && ok && filepath.IsAbs(own) {
		if common, err := os.ReadFile(filepath.Join(own, "commondir")); err == nil {
			folders = append(folders, filepath.Join(own, strings.TrimSpace(string(common))))
		}
	}
	return folders
}

func quoteConfig(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(value) + `"`
}
