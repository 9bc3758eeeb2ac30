package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"time"
)

const (
	tokenTimeout   = 20 * time.Second // for GitHub's answer
	maxTokenAnswer = 64 << 10         // bytes of it
)

var jwtShape = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// workflow returns the credential of a job of GitHub Actions that has the permission
// id-token: write, or nil outside of one. Each request gets a token of its own: one lives
// for minutes, and a review may take longer.
func (a *app) workflow() (credential, error) {
	address, secret := a.getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), a.getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if address == "" || secret == "" {
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usagef("ACTIONS_ID_TOKEN_REQUEST_URL is not an address: want http(s)://host/path")
	}
	query := u.Query()
	query.Set("audience", cmp.Or(a.getenv("NOFX_OIDC_AUDIENCE"), "nofx"))
	u.RawQuery = query.Encode()
	github := a.sending(caller{address: u.Scheme + "://" + u.Host, name: "GitHub", key: fixed(secret), tries: maxTries, harmless: true}, tokenTimeout)
	github.http.Timeout = tokenTimeout
	github.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return func(ctx context.Context) (string, error) {
		token, err := workflowToken(ctx, github, u.String())
		if err != nil {
			return "", fmt.Errorf("get an OIDC token: %w", err)
		}
		return token, nil
	}, nil
}

// workflowToken returns a new token from GitHub. No error has text of an answer, which may
// have the token.
func workflowToken(ctx context.Context, github *caller, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := github.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GitHub answered %s", resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return "", fmt.Errorf("read GitHub's answer: %w", err)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || !jwtShape.MatchString(answer.Value) {
		return "", errors.New("GitHub's answer has none")
	}
	return answer.Value, nil
}
