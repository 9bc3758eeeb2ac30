package codehost

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"nofx.dev/shared/fault"
)

// maxAnswer bounds what a server may send at once.
const maxAnswer = 32 << 20

// closeWait is how long a server may take to end after its stdin is closed.
const closeWait = 2 * time.Second

// transport returns the way to a server, and what is to be done once the session is closed.
func (c Config) transport(p provider, write bool) (mcp.Transport, func(), error) {
	if c.Server.URL != "" {
		client := *c.HTTP
		client.Transport = &carrier{base: client.Transport, header: p.header(c, write)}
		return &mcp.StreamableClientTransport{Endpoint: c.Server.URL, HTTPClient: &client, MaxRetries: -1, DisableStandaloneSSE: true, MaxEventSize: maxAnswer}, func() {}, nil
	}
	if len(c.Server.Command) == 0 {
		return nil, nil, fault.New(fault.Invalid, "no-server", "the MCP server has neither a command nor an address")
	}
	return startChild(c, p, write)
}

// carrier adds the credential and bounds the answers.
type carrier struct {
	base   http.RoundTripper
	header http.Header
}

func (c *carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range c.header {
		r.Header[name] = values
	}
	resp, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{resp.Body, maxAnswer}
	switch code := resp.StatusCode; {
	case code >= http.StatusInternalServerError, code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusTooManyRequests:
		// Of these the session would keep the words alone, and not how long to wait.
		defer func() { _ = resp.Body.Close() }() // it has been read
		return nil, ofAnswer(resp)
	}
	return resp, nil
}

// bounded ends with an error after left bytes.
type bounded struct {
	io.ReadCloser

	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// child is a server that runs as a process group of its own. It gets the environment that
// is made for it and nothing of ours; what it writes to stderr is dropped, since some write
// their credential there.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	over   func()        // lets it be waited for
	gone   chan struct{} // closed once it was waited for
}

func startChild(c Config, p provider, write bool) (mcp.Transport, func(), error) {
	dir, err := os.MkdirTemp(c.Server.Dir, "nofx-forge-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for the MCP server: %w", err)
	}
	clean := func() { _ = os.RemoveAll(dir) } // the system's cleaning gets what is left
	args, env := p.command(c, dir, write)
	// It lives as long as the session, not as the call that happens to open it.
	cmd := exec.Command(c.Server.Command[0], append(c.Server.Command[1:len(c.Server.Command):len(c.Server.Command)], args...)...) // the operator's own configuration
	cmd.Env = append(append([]string{}, c.Server.Env...), env...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithUs(cmd.SysProcAttr)
	return &childTransport{cmd: cmd}, clean, nil
}

// childTransport starts a child when a session is opened.
type childTransport struct{ cmd *exec.Cmd }

func (t *childTransport) Connect(ctx context.Context) (mcp.Connection, error) {
	ch := &child{cmd: t.cmd, gone: make(chan struct{})}
	var err error
	if ch.stdin, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if ch.stdout, err = t.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := ch.start(); err != nil {
		return nil, err
	}
	return (&mcp.IOTransport{Reader: io.NopCloser(ch.stdout), Writer: ch, MaxLineLength: maxAnswer}).Connect(ctx)
}

// start starts the server. The kernel ends it with us even if we are killed, when it may be in
// the midst of a call that nobody answers. It watches the thread that started it, which is
// therefore kept until the server has ended.
func (ch *child) start() error {
	started, over := make(chan error), make(chan struct{})
	ch.over = sync.OnceFunc(func() { close(over) })
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := ch.cmd.Start()
		started <- err
		if err == nil {
			<-over
			_ = ch.cmd.Wait() // how it ended is of no interest
			close(ch.gone)
		}
	}()
	return <-started
}

func (ch *child) Write(p []byte) (int, error) { return ch.stdin.Write(p) }

// Close closes the server's stdin, which ends it, and ends its whole group.
func (ch *child) Close() error {
	_ = ch.stdin.Close()
	timer := time.AfterFunc(closeWait, ch.kill)
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, ch.stdout) // until it ends
	ch.kill()                             // what it has started
	ch.over()
	<-ch.gone
	return nil
}

// kill ends the group. The group's number cannot be another's before Wait has returned.
func (ch *child) kill() { _ = syscall.Kill(-ch.cmd.Process.Pid, syscall.SIGKILL) }
