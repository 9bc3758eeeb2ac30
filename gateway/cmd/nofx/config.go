package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// config is the login: nofx/config.json in the user's configuration folder.
type config struct {
	URL    string `json:"url"`
	APIKey string `json:"api_key"`
}

func (a *app) configPath() (string, error) {
	dir, err := a.configDir()
	if err != nil {
		return "", fmt.Errorf("your configuration folder: %w", err)
	}
	return filepath.Join(dir, "nofx", "config.json"), nil
}

// readConfig returns the login, or an empty config when there is none. A file that others
// may read is refused, as its key is no longer secret.
func (a *app) readConfig() (config, error) {
	path, err := a.configPath()
	if err != nil {
		return config{}, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, nil
	}
	if err != nil {
		return config{}, fmt.Errorf("the login: %w", err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return config{}, usagef("%s may be read by others (mode %#o): chmod 600 it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return config{}, fmt.Errorf("the login: %w", err)
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return config{}, usagef("%s: %w", path, err)
	}
	return c, nil
}

// writeConfig stores a login in a file that only its owner can read, renamed into place.
func (a *app) writeConfig(c config) (path string, err error) {
	if path, err = a.configPath(); err != nil {
		return "", err
	}
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	draft, err := os.CreateTemp(filepath.Dir(path), "config-*") // 0600 from the start
	if err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(draft.Name())
		}
	}()
	_, err = draft.Write(append(raw, '\n'))
	if err = errors.Join(err, draft.Close()); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	if err = os.Rename(draft.Name(), path); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	return path, nil
}

// address returns the gateway's address, and the login that it may come from.
func (a *app) address() (string, config, error) {
	login, err := a.readConfig()
	if err != nil {
		return "", config{}, err
	}
	for _, address := range []string{a.url, a.getenv("NOFX_URL"), login.URL} {
		if address == "" {
			continue
		}
		u, err := url.Parse(address)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return "", config{}, usagef("%q is not the address of a gateway: want http(s)://host[:port]", address)
		}
		return strings.TrimRight(address, "/"), login, nil
	}
	return "", config{}, usagef("no gateway: log in (nofx login --url URL), or set NOFX_URL and NOFX_API_KEY")
}

// credential returns what a request shows to the gateway: it is called for each.
type credential func(context.Context) (string, error)

// fixed returns the credential that is the same for all requests.
func fixed(key string) credential {
	return func(context.Context) (string, error) { return key, nil }
}

// gateway returns the address to speak to and the credential to show there.
func (a *app) gateway() (address string, key credential, err error) {
	address, login, err := a.address()
	if err != nil {
		return "", nil, err
	}
	if key := a.getenv("NOFX_API_KEY"); key != "" {
		return address, fixed(key), nil
	}
	if path := a.getenv("NOFX_API_KEY_FILE"); path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", nil, usagef("NOFX_API_KEY_FILE: %w", err)
		}
		return address, fixed(strings.TrimSpace(string(raw))), nil
	}
	// The login's key is that gateway's secret: no other address gets it.
	if login.APIKey != "" && strings.TrimRight(login.URL, "/") == address {
		return address, fixed(login.APIKey), nil
	}
	if key, err = a.workflow(); err != nil {
		return "", nil, err
	}
	if key != nil {
		return address, key, nil
	}
	return "", nil, usagef("no key for %s: log in (nofx login --url %[1]s), or set NOFX_API_KEY", address)
}
