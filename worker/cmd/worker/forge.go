package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/codehost"
	"nofx.dev/worker/internal/reviewer"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/tool"
)

// forgeSettings are the forges whose pull requests are reviewed, and how their MCP servers
// are reached.
type forgeSettings struct {
	TokensDir string `env:"NOFX_FORGE_TOKENS_DIR" doc:"folder of tokens for repositories that name one as their credential: a file TENANT/NAME for each, by the id of the tenant (ten_…), read at each use"`

	GitHubToken   string `env:"NOFX_GITHUB_TOKEN" secret:"true" doc:"token for pull requests on GitHub, of repositories that name no other"`
	GitHubCommand string `env:"NOFX_GITHUB_MCP_COMMAND" doc:"GitHub's MCP server (github-mcp-server) and its first arguments, separated by spaces"`
	GitHubURL     string `env:"NOFX_GITHUB_MCP_URL" doc:"address of a remote MCP server of GitHub, instead of a command"`
	GitHubAPI     string `env:"NOFX_GITHUB_API" envDefault:"https://api.github.com" doc:"GitHub's REST API"`

	BitbucketToken   string `env:"NOFX_BITBUCKET_TOKEN" secret:"true" doc:"token for pull requests on Bitbucket, of repositories that name no other"`
	BitbucketCommand string `env:"NOFX_BITBUCKET_MCP_COMMAND" doc:"Bitbucket's MCP server (bitbucket-mcp) and its first arguments, separated by spaces"`
	BitbucketAccount string `env:"NOFX_BITBUCKET_ACCOUNT" doc:"account id or UUID that NOFX_BITBUCKET_TOKEN is of; needed where the token is that of a repository"`
	BitbucketAPI     string `env:"NOFX_BITBUCKET_API" envDefault:"https://api.bitbucket.org/2.0" doc:"Bitbucket's REST API"`
	BitbucketReports bool   `env:"NOFX_BITBUCKET_REPORTS" envDefault:"true" doc:"whether reviews on Bitbucket are shown as a report of Code Insights too, with an annotation for each open finding"`
}

// hosts returns the forges that are set up: those with a token, and with NOFX_FORGE_TOKENS_DIR
// those with a server.
func (s forgeSettings) hosts() (map[review.Provider]reviewstep.OpenHost, error) {
	hosts := map[review.Provider]reviewstep.OpenHost{}
	var err error
	if s.GitHubToken != "" || s.TokensDir != "" && s.GitHubCommand+s.GitHubURL != "" {
		if (s.GitHubCommand == "") == (s.GitHubURL == "") {
			err = errors.Join(err, errors.New("pull requests on GitHub need one of NOFX_GITHUB_MCP_COMMAND and NOFX_GITHUB_MCP_URL"))
		}
		addresses := []string{s.GitHubAPI}
		if s.GitHubURL != "" {
			addresses = append(addresses, s.GitHubURL)
		}
		client, problem := clientFor(addresses...)
		if problem != nil {
			err = errors.Join(err, fmt.Errorf("NOFX_GITHUB_API or NOFX_GITHUB_MCP_URL: %w", problem))
		}
		cfg := codehost.Config{Token: s.GitHubToken, API: s.GitHubAPI, HTTP: client, Server: codehost.Server{Command: strings.Fields(s.GitHubCommand), URL: s.GitHubURL}}
		hosts[review.GitHub] = opener(cfg, "NOFX_GITHUB_TOKEN", func(ctx context.Context, c codehost.Config) (closing, error) { return codehost.OpenGitHub(ctx, c) })
	}
	if s.BitbucketToken != "" || s.TokensDir != "" && s.BitbucketCommand != "" {
		if s.BitbucketCommand == "" {
			err = errors.Join(err, errors.New("NOFX_BITBUCKET_TOKEN: needs NOFX_BITBUCKET_MCP_COMMAND"))
		}
		client, problem := clientFor(s.BitbucketAPI)
		if problem != nil {
			err = errors.Join(err, fmt.Errorf("NOFX_BITBUCKET_API: %w", problem))
		}
		cfg := codehost.Config{Token: s.BitbucketToken, Account: s.BitbucketAccount, API: s.BitbucketAPI, Report: s.BitbucketReports, HTTP: client, Server: codehost.Server{Command: strings.Fields(s.BitbucketCommand)}}
		hosts[review.Bitbucket] = opener(cfg, "NOFX_BITBUCKET_TOKEN", func(ctx context.Context, c codehost.Config) (closing, error) { return codehost.OpenBitbucket(ctx, c) })
	}
	return hosts, err
}

type closing interface {
	reviewer.CodeHost
	Close()
}

// opener returns how pull requests of a forge are opened. setting is where its token is from.
func opener(cfg codehost.Config, setting string, open func(context.Context, codehost.Config) (closing, error)) reviewstep.OpenHost {
	return func(ctx context.Context, t reviewstep.Target) (reviewer.CodeHost, func(), error) {
		cfg := cfg
		cfg.Repository, cfg.Number, cfg.Pinned = t.Repository, t.Number, t.Pinned
		if t.Token != "" {
			cfg.Token, cfg.Account = t.Token, "" // which is found out
		}
		if cfg.Token == "" {
			return nil, nil, tool.Failuref(run.ClassPolicy, "the repository names no credential, and this worker has no token for others (%s)", setting)
		}
		host, err := open(ctx, cfg)
		if err != nil {
			return nil, nil, err
		}
		return host, host.Close, nil
	}
}
