package codehosttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// gitHubServer is the module of the real server that the connectors are tested with.
const gitHubServer = "github.com/github/github-mcp-server/v2/cmd/github-mcp-server@v2.0.2"

// RealGitHub returns the program of the real server: NOFX_GITHUB_MCP_BIN, or one that the
// go command installs into a folder of the tests. Where it cannot be had, the test is
// skipped and says so, unless NOFX_REQUIRE_GITHUB_MCP is set.
func RealGitHub(tb testing.TB) string {
	tb.Helper()
	bin, err := realGitHub()
	if err != nil {
		absent(tb, "NOFX_REQUIRE_GITHUB_MCP", "github-mcp-server v2.0.2", err)
	}
	return bin
}

var realGitHub = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("NOFX_GITHUB_MCP_BIN"); bin != "" {
		_, err := os.Stat(bin)
		return bin, err
	}
	folder, err := toolsFolder("github-mcp-server-2.0.2")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(folder, "github-mcp-server")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	made, err := os.MkdirTemp(folder, "build-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(made) }()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", gitHubServer)
	cmd.Env = append(os.Environ(), "GOBIN="+made, "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w\n%s", gitHubServer, err, out)
	}
	return bin, os.Rename(filepath.Join(made, "github-mcp-server"), bin) // another process may have been as fast
})

// bitbucketServer is the package of the real server of Bitbucket.
const bitbucketServer = "bitbucket-mcp@5.0.6"

// RealBitbucket returns the command of the real server: the script at NOFX_BITBUCKET_MCP_JS,
// or one that npm installs. NOFX_REQUIRE_BITBUCKET_MCP is as for RealGitHub.
func RealBitbucket(tb testing.TB) []string {
	tb.Helper()
	command, err := realBitbucket()
	if err != nil {
		absent(tb, "NOFX_REQUIRE_BITBUCKET_MCP", bitbucketServer, err)
	}
	return command
}

var realBitbucket = sync.OnceValues(func() ([]string, error) {
	node, err := exec.LookPath("node")
	if err != nil {
		return nil, err
	}
	if script := os.Getenv("NOFX_BITBUCKET_MCP_JS"); script != "" {
		_, err := os.Stat(script)
		return []string{node, script}, err
	}
	folder, err := toolsFolder("bitbucket-mcp-5.0.6")
	if err != nil {
		return nil, err
	}
	const script = "node_modules/bitbucket-mcp/dist/index.js"
	at := filepath.Join(folder, "installed")
	if _, err := os.Stat(filepath.Join(at, script)); err == nil {
		return []string{node, filepath.Join(at, script)}, nil
	}
	made, err := os.MkdirTemp(folder, "install-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(made) }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", made, bitbucketServer)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("npm install %s: %w\n%s", bitbucketServer, err, out)
	}
	if err := os.Rename(made, at); err != nil {
		if _, there := os.Stat(filepath.Join(at, script)); there != nil { // else another process was as fast
			return nil, err
		}
	}
	return []string{node, filepath.Join(at, script)}, nil
})

// toolsFolder returns a folder that lasts beyond the tests.
func toolsFolder(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "nofx-test-tools", name)
	return folder, os.MkdirAll(folder, 0o755) // programs, not secrets
}

// absent ends a test that has no real server.
func absent(tb testing.TB, required, what string, err error) {
	tb.Helper()
	const notice = "NOT RUN against the real %s, the double stands alone: %v"
	if os.Getenv(required) != "" {
		tb.Fatalf(notice, what, err)
	}
	fmt.Fprintf(os.Stderr, notice+"\n", what, err)
	tb.Skipf(notice, what, err)
}
