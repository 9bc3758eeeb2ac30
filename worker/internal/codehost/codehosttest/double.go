package codehosttest

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"nofx.dev/worker/internal/egress"
)

// Profile is a generation of github-mcp-server.
type Profile string

// The generations, and the one server of Bitbucket.
const (
	GitHub110    Profile = "1.10"
	GitHub20     Profile = "2.0"
	Bitbucket506 Profile = "bitbucket 5.0.6"
)

//go:embed testdata/*.json
var announced embed.FS

// list is what a server announces, as it was recorded.
type list struct {
	Tools []*mcp.Tool `json:"tools"`
}

func (p Profile) file() string {
	switch p {
	case GitHub110:
		return "testdata/github-tools.json"
	case Bitbucket506:
		return "testdata/bitbucket-tools.json"
	}
	return "testdata/github-tools-2.0.json"
}

func recorded(file string) []*mcp.Tool {
	text, err := announced.ReadFile(file)
	if err != nil {
		panic(err)
	}
	var l list
	if err := json.Unmarshal(text, &l); err != nil {
		panic(err)
	}
	return l.Tools
}

// caller runs a tool.
type caller func(ctx context.Context, tool string, args map[string]any) (*mcp.CallToolResult, error)

// Double is an MCP server over a forge that behaves as a real one.
type Double struct {
	Forge   *Forge
	Profile Profile
	other   caller // instead of what runs the tools of GitHub
	// Tools, if set, changes what is announced.
	Tools func(t *mcp.Tool)
}

// Double returns bitbucket-mcp over the API at an address.
func (b *Bitbucket) Double(api string) *Double {
	return &Double{Forge: b.Forge, Profile: Bitbucket506, other: b.double(api)}
}

// server makes an MCP server whose tools are run by call.
func (p Profile) server(tools []*mcp.Tool, call func(ctx context.Context, tool string, args json.RawMessage) (*mcp.CallToolResult, error)) *mcp.Server {
	opts, is := &mcp.ServerOptions{}, mcp.Implementation{Name: "github-mcp-server", Version: "2.0.2"}
	switch p {
	case GitHub110:
		opts.SupportedProtocolVersions, is.Version = []string{"2025-06-18"}, "1.10.0"
	case Bitbucket506:
		opts.SupportedProtocolVersions, is = []string{"2024-11-05"}, mcp.Implementation{Name: "bitbucket-mcp-server", Version: "1.0.0"}
	}
	s := mcp.NewServer(&is, opts)
	for _, tool := range tools {
		s.AddTool(tool, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return call(ctx, r.Params.Name, r.Params.Arguments)
		})
	}
	return s
}

// tools returns the tools that a client asks for by name.
func (d *Double) tools(names string) []*mcp.Tool {
	all := recorded(d.Profile.file())
	if names != "" {
		all = slices.DeleteFunc(all, func(t *mcp.Tool) bool { return !slices.Contains(strings.Split(names, ","), t.Name) })
	}
	for _, t := range all {
		if d.Tools != nil {
			d.Tools(t)
		}
	}
	return all
}

// URL serves the double over streamable HTTP, and what a double of Stdio asks for.
func (d *Double) URL() string { return d.Forge.serve(d.handler()) }

func (d *Double) handler() http.Handler {
	mux := http.NewServeMux()
	var servers sync.Map // by what is asked for
	mux.Handle("/mcp", mcp.NewStreamableHTTPHandler(func(r *http.Request) *mcp.Server {
		if r.Header.Get("Authorization") != "Bearer "+Token {
			return nil
		}
		names := r.Header.Get("X-MCP-Tools")
		s, there := servers.Load(names)
		if !there || d.Tools != nil {
			s = d.Profile.server(d.tools(names), d.call)
			servers.Store(names, s)
		}
		return s.(*mcp.Server)
	}, &mcp.StreamableHTTPOptions{Stateless: d.Profile == GitHub20}))
	mux.HandleFunc("/tools", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, d.tools(r.URL.Query().Get("names")))
	})
	mux.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		args, err := io.ReadAll(r.Body)
		if err != nil {
			return // the child is gone
		}
		got, err := d.call(r.Context(), r.URL.Query().Get("tool"), args)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		writeJSON(w, http.StatusOK, got)
	})
	return mux
}

// What a child that is a double gets in its environment.
const (
	doubleAt      = "NOFX_TEST_DOUBLE"
	doubleProfile = "NOFX_TEST_DOUBLE_PROFILE"
	doubleEnv     = "NOFX_TEST_DOUBLE_ENV" // a file for the child's environment
)

// Stdio returns the command and environment of a child that is this double. TestMain of the
// test binary must call ServeDouble.
func (d *Double) Stdio(envFile string) (command, env []string) {
	self, err := os.Executable()
	if err != nil {
		d.Forge.tb.Fatal(err)
	}
	return []string{self}, []string{doubleAt + "=" + d.URL(), doubleProfile + "=" + string(d.Profile), doubleEnv + "=" + envFile}
}

// ServeDouble does not return in a child that is a double.
func ServeDouble() {
	at := os.Getenv(doubleAt)
	if at == "" {
		return
	}
	if file := os.Getenv(doubleEnv); file != "" {
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s\nPID=%d", strings.Join(os.Environ(), "\n"), os.Getpid()), 0o600); err != nil {
			panic(err)
		}
	}
	fmt.Fprintln(os.Stderr, "the credential is", os.Environ()) // as some servers do
	names := ""
	if i := slices.Index(os.Args, "--tools"); i >= 0 {
		names = os.Args[i+1]
	}
	var tools []*mcp.Tool
	client := egress.NewListedClient(nil)
	ask := func(path string, body []byte, into any) error {
		resp, err := client.Post(at+path, "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			text, err := io.ReadAll(resp.Body)
			return errors.Join(errors.New(string(text)), err)
		}
		return json.NewDecoder(resp.Body).Decode(into)
	}
	if err := ask("/tools?names="+names, nil, &tools); err != nil {
		panic(err)
	}
	s := Profile(os.Getenv(doubleProfile)).server(tools, func(_ context.Context, tool string, args json.RawMessage) (*mcp.CallToolResult, error) {
		var r mcp.CallToolResult
		if err := ask("/call?tool="+tool, args, &r); err != nil {
			return nil, err
		}
		return &r, nil
	})
	_ = s.Run(context.Background(), &mcp.StdioTransport{}) // until stdin is closed
	os.Exit(0)
}

// call runs a tool.
func (d *Double) call(ctx context.Context, tool string, raw json.RawMessage) (*mcp.CallToolResult, error) {
	var args map[string]any
	if err := json.Unmarshal(raw, &args); err != nil {
		return nil, err
	}
	if problem := d.check(tool, args); problem != "" {
		d.Forge.tb.Errorf("%s %s: %s", tool, raw, problem)
		return failed(problem), nil
	}
	if d.other != nil {
		return d.other(ctx, tool, args)
	}
	got, no := d.run(tool, args)
	if no != nil && no.Silent {
		select {
		case <-ctx.Done():
		case <-d.Forge.done:
		}
		return nil, context.Canceled
	}
	if no != nil {
		return failed(sentence(no)), nil
	}
	return d.result(got), nil
}

// check holds a call against the announced schema. Unlike servers, it refuses what that
// does not name.
func (d *Double) check(tool string, args map[string]any) string {
	shapes := shapesOf[d.Profile]()
	s, known := shapes[tool]
	if !known {
		return "there is no such tool"
	}
	for name := range args {
		if _, known := s.Properties[name]; !known {
			return "it has no argument " + name
		}
	}
	if err := s.Validate(args); err != nil {
		return err.Error()
	}
	return ""
}

// shapesOf has the compiled schemas of what each server announces.
var shapesOf = map[Profile]func() map[string]*jsonschema.Schema{
	GitHub110: GitHub110.shapes(), GitHub20: GitHub20.shapes(), Bitbucket506: Bitbucket506.shapes(),
}

func (p Profile) shapes() func() map[string]*jsonschema.Schema {
	return sync.OnceValue(func() map[string]*jsonschema.Schema {
		all := map[string]*jsonschema.Schema{}
		for _, t := range recorded(p.file()) {
			c := jsonschema.NewCompiler()
			if err := c.AddResource(t.Name, t.InputSchema); err != nil {
				panic(err)
			}
			all[t.Name] = c.MustCompile(t.Name)
		}
		return all
	})
}

// sentence returns the text by which servers report a forge's error.
func sentence(no *Refusal) string {
	if strings.Contains(no.Message, "rate limit") {
		s := "GitHub secondary rate limit exceeded."
		if after := no.Header.Get("Retry-After"); after != "" {
			s += " Retry after " + after + "s."
		}
		return s
	}
	return fmt.Sprintf("failed to do this: GET http://127.0.0.1:4040/api/v3/repos: %d %s []", no.Status, no.Message)
}

func failed(text string) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: text}}}
}
