package codehost

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/telemetry"
)

// Config is how a pull request is reached.
type Config struct {
	Repository string // owner/name
	Number     int
	Token      string
	Account    string       // that the token is of, as the forge names it; "" asks the forge
	Server     Server       // the MCP server
	API        string       // base of the REST API, such as https://api.github.com
	HTTP       *http.Client // for the REST API and a remote server, with a Transport and no credential
	Report     bool         // whether reviews are reports of Code Insights too, on Bitbucket

	// Pinned returns the tools that a server announced when it was first used in this way,
	// by digest; the first time those are tools. Other ones are refused. nil: only within a
	// session.
	Pinned func(ctx context.Context, server, session string, tools map[string]string) (map[string]string, error)

	CallLimit time.Duration // for each call; 0: a minute
	Pace      time.Duration // between two writes; 0: a second, negative: none
}

// Server is an MCP server: a command that speaks over stdin and stdout, or an address.
type Server struct {
	Command []string // the program and its first arguments
	Env     []string // beyond the credential, which is added; nothing is inherited
	Dir     string   // where its folder is made, which Close removes; "": where temporary files are

	URL string // instead of Command
}

func (c Config) callLimit() time.Duration { return cmp.Or(c.CallLimit, time.Minute) }

func (c Config) pace() time.Duration { return max(0, cmp.Or(c.Pace, time.Second)) }

// provider is what differs between servers.
type provider interface {
	rules(c Config, write bool) []rule
	header(c Config, write bool) http.Header                       // of a remote one
	command(c Config, dir string, write bool) (args, env []string) // of a child
	judge(text string) *fault.Error                                // the fault that its text is about
}

// session is a session with an MCP server, which may do what its rules allow.
type session struct {
	mcp    *mcp.ClientSession
	rules  []rule
	limit  time.Duration
	judge  func(text string) *fault.Error // the fault that a server's text is about
	redact *telemetry.Redactor
	tools  map[string]*mcp.Tool
	pin    map[string]string // digests of the tools
	end    func()
}

// openSession connects and checks that the server's tools are those that the rules need,
// and those that are pinned.
func openSession(ctx context.Context, cfg Config, p provider, write bool) (*session, error) {
	transport, end, err := cfg.transport(p, write)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.callLimit())
	defer cancel()
	// The client offers nothing that a server could ask for.
	client := mcp.NewClient(&mcp.Implementation{Name: "nofx", Version: "1"}, &mcp.ClientOptions{
		Capabilities:   &mcp.ClientCapabilities{},
		MultiRoundTrip: &mcp.MultiRoundTripOptions{Disabled: true},
	})
	client.AddSendingMiddleware(fresh)
	s := &session{rules: p.rules(cfg, write), limit: cfg.callLimit(), judge: p.judge, redact: telemetry.NewRedactor(cfg.Token), end: end}
	if s.mcp, err = client.Connect(ctx, transport, nil); err != nil {
		end()
		return nil, s.lost(ctx, "connect to the MCP server", err)
	}
	if s.tools, s.pin, err = s.list(ctx); err == nil {
		err = s.admit()
	}
	if err == nil && cfg.Pinned != nil {
		err = s.pinned(ctx, cfg, write)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// fresh keeps lists from being cached: a server could say for how long, and change.
func fresh(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
		got, err := next(ctx, method, r)
		if l, ok := got.(*mcp.ListToolsResult); ok && l != nil {
			l.TTLMs = 0
		}
		return got, err
	}
}

func (s *session) close() {
	_ = s.mcp.Close() // there is nothing to do about a server that ends badly
	s.end()
}

// version returns the server's name and version.
func (s *session) version() (name, version string) {
	if r := s.mcp.InitializeResult(); r != nil && r.ServerInfo != nil {
		return r.ServerInfo.Name, r.ServerInfo.Version
	}
	return "", ""
}

// pinned checks that the server announces what it did when it was first used at this version.
// A kind of session is named by the tools that it looks at, so that another release of ours
// with other rules begins anew.
func (s *session) pinned(ctx context.Context, cfg Config, write bool) error {
	name, version := s.version()
	server := strings.ToValidUTF8(strings.ReplaceAll(strings.TrimSpace(name+" "+version), "\x00", ""), "")
	if utf8.RuneCountInString(server) > 200 {
		return fault.New(fault.Forbidden, "unknown-server", "the MCP server announces a name and version of more than 200 characters")
	}
	kind := map[bool]string{false: "read", true: "write"}[write]
	var names []string
	for _, r := range s.rules {
		names = append(names, r.tool)
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(names), "\n")))
	was, err := cfg.Pinned(ctx, server, kind+" "+hex.EncodeToString(sum[:6]), s.pin)
	if err != nil || maps.Equal(was, s.pin) {
		return err
	}
	return changed(server, was, s.pin)
}

// list returns the tools that the rules name, and digests of what they take and return.
func (s *session) list(ctx context.Context) (map[string]*mcp.Tool, map[string]string, error) {
	used := map[string]*mcp.Tool{}
	for tool, err := range s.mcp.Tools(ctx, nil) {
		if err != nil {
			return nil, nil, s.lost(ctx, "list the tools of the MCP server", err)
		}
		if slices.ContainsFunc(s.rules, func(r rule) bool { return r.tool == tool.Name }) {
			used[tool.Name] = tool
		}
	}
	digests := make(map[string]string, len(used))
	for name, tool := range used {
		shape, err := json.Marshal([]any{name, tool.InputSchema, tool.OutputSchema})
		if err != nil {
			return nil, nil, fmt.Errorf("encode the schema of %s: %w", name, err)
		}
		sum := sha256.Sum256(shape)
		digests[name] = hex.EncodeToString(sum[:])
	}
	return used, digests, nil
}

// unchanged reports a list of tools that is not what it was when the session was opened.
func (s *session) unchanged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	_, pin, err := s.list(ctx)
	if err == nil && !maps.Equal(pin, s.pin) {
		name, version := s.version()
		err = changed(name+" "+version, s.pin, pin)
	}
	return err
}

// changed returns the refusal of a server that announces other tools than before.
func changed(server string, was, is map[string]string) error {
	var what []string
	for _, name := range slices.Sorted(maps.Keys(was)) {
		switch now, there := is[name]; {
		case !there:
			what = append(what, name+" is gone")
		case now != was[name]:
			what = append(what, name+" takes or returns something else")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, there := was[name]; !there {
			what = append(what, name+" is new")
		}
	}
	return fault.New(fault.Forbidden, "tools-changed", "the MCP server %s announces other tools than it did at this version: %s; an administrator may accept them (nofx repository accept-tools)",
		server, strings.Join(what, ", "))
}

// answer is what a tool returned.
type answer struct {
	content    []mcp.Content
	structured any
}

// call calls a tool. The answer is a success; what the server reports as an error, or does
// not answer, is a fault.
func (s *session) call(ctx context.Context, tool string, args map[string]any) (_ answer, err error) {
	if !slices.ContainsFunc(s.rules, func(r rule) bool { return r.allows(tool, args) }) {
		return answer{}, fault.New(fault.Forbidden, "call-refused", "calling %s with these arguments is not allowed", tool)
	}
	ctx, end := s.span(ctx, tool)
	defer func() { end(err) }()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	r, err := s.mcp.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return answer{}, s.lost(ctx, "call "+tool, err)
	}
	if r.IsError {
		return answer{}, s.fault(tool, textOf(r.Content))
	}
	return answer{r.Content, r.StructuredContent}, nil
}

// span begins the span of a call. It has nothing of the arguments and the answer.
func (s *session) span(ctx context.Context, tool string) (_ context.Context, end func(error)) {
	name, version := s.version()
	ctx, span := otel.Tracer("nofx.dev/worker/internal/codehost").Start(ctx, "mcp tools/call "+tool, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		telemetry.MCPServerKey.String(name+" "+version), telemetry.MCPToolKey.String(tool)))
	return ctx, func(err error) {
		span.SetAttributes(telemetry.MCPErrorKey.Bool(err != nil))
		if e, ok := errors.AsType[*fault.Error](err); ok {
			span.SetAttributes(telemetry.ErrorTypeKey.String(e.Code))
			span.SetStatus(codes.Error, e.Code)
		}
		span.End()
	}
}

// fault returns the fault that a server's text is about, without secrets.
func (s *session) fault(tool, text string) *fault.Error {
	e := s.judge(text)
	e.Detail = fmt.Sprintf("%s: %s", tool, e.Detail)
	return e.Because(shown(s.redact, text))
}

// shown returns the beginning of a text from elsewhere, once its secrets are masked: half of
// one would not be found.
func shown(redact *telemetry.Redactor, text string) error {
	const most = 300
	text = redact.String(text)
	return errors.New(strings.ToValidUTF8(text[:min(len(text), most)], ""))
}

// lost returns the fault of a call that has no answer. The one who cancelled it gets the
// reason of the context.
func (s *session) lost(ctx context.Context, doing string, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case ctx.Err() != nil:
		return fault.New(fault.Unavailable, "timeout", "%s: no answer within %s", doing, s.limit)
	}
	if e, ok := errors.AsType[*fault.Error](err); ok { // of the way to the server
		known := *e
		known.Detail, known.Err = doing+": "+e.Detail, shown(s.redact, err.Error())
		return &known
	}
	return s.fault(doing, err.Error())
}

// json decodes an answer: its structured content, or else its text.
func (a answer) json(into any) error {
	text := []byte(textOf(a.content))
	if a.structured != nil {
		var err error
		if text, err = json.Marshal(a.structured); err != nil {
			return badAnswer(err)
		}
	}
	if err := json.Unmarshal(text, into); err != nil {
		return badAnswer(err)
	}
	return nil
}

func badAnswer(err error) error {
	return fault.New(fault.Unavailable, "bad-answer", "the MCP server's answer cannot be read").Because(err)
}

func textOf(content []mcp.Content) string {
	var b strings.Builder
	for _, c := range content {
		if t, ok := c.(*mcp.TextContent); ok {
			b.WriteString(t.Text)
		}
	}
	return b.String()
}
