package main

import (
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"nofx.dev/integration/harness"
)

// login is the configuration of the command line tool.
type login struct {
	URL    string `json:"url"`
	APIKey string `json:"api_key"`
}

// keepLogin writes where this stack is for the command line tool and returns the path
// of its configuration. A login to another deployment is left as it is, and the
// path is empty then.
func keepLogin(address, key string) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nofx", "config.json")
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return "", err
	default:
		var old login
		if json.Unmarshal(raw, &old) != nil || !local(old) {
			return "", nil
		}
	}
	raw, err = json.MarshalIndent(login{URL: address, APIKey: key}, "", "  ")
	if err != nil {
		return "", err
	}
	return path, harness.WriteFile(path, append(raw, '\n'))
}

// local reports whether l is of a stack: a development key on loopback.
func local(l login) bool {
	u, err := url.Parse(l.URL)
	if err != nil || !strings.HasPrefix(l.APIKey, "nofx_dev_") {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}
