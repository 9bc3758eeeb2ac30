package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// key finds the key of an earlier stack on the same data, or makes the tenant
// dev and so a key.
func (s *Stack) key(ctx context.Context) error {
	path := filepath.Join(s.Dir, "api-key")
	if s.cfg.Keep {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if key := strings.TrimSpace(string(b)); key != "" {
			ok, err := s.accepts(ctx, key)
			if err != nil {
				return err
			}
			if ok {
				s.APIKey = key
				return nil
			}
		}
	}
	key, err := s.newKey(ctx, "dev", "--key") // a further one where the tenant is there
	if err != nil {
		return err
	}
	s.APIKey = key
	return WriteFile(path, []byte(key+"\n"))
}

// kekFile returns where the key is that secrets of the stack are sealed with.
func (s *Stack) kekFile() string { return filepath.Join(s.Dir, "kek") }

// kek makes that key, once for a data folder.
func (s *Stack) kek(ctx context.Context) error {
	if _, err := os.Stat(s.kekFile()); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := output(ctx, nil, s.cfg.Binaries.Gateway, "kek", "create", s.kekFile())
	return err
}

// accepts asks the gateway whether it knows key.
func (s *Stack) accepts(ctx context.Context, key string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/whoami", nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusUnauthorized:
		return false, nil
	}
	return false, fmt.Errorf("GET /api/whoami answers %d to the stored key", resp.StatusCode)
}
