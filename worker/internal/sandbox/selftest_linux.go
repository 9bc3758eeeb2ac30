package sandbox

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"nofx.dev/worker/internal/sandbox/confine"
)

// HelperName is the file name of the helper.
const HelperName = "nofx-sandbox"

// probeLimit is how long a probe may take, on a busy machine.
const probeLimit = 30 * time.Second

// Open returns a Sandbox of the highest tier that holds on this machine, up to cfg.MaxTier.
// It returns an error if nothing can be run at all, as when the helper is missing.
func Open(ctx context.Context, cfg Config) (s *Sandbox, err error) {
	if cfg.Helper == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("sandbox: %w", err)
		}
		cfg.Helper = filepath.Join(filepath.Dir(self), HelperName)
	}
	if _, err := os.Stat(cfg.Helper); err != nil {
		return nil, fmt.Errorf("sandbox: the program %s has to be beside the worker: %w", HelperName, err)
	}
	if cfg.Groups != "" {
		if err := prepareGroups(cfg.Groups); err != nil {
			return nil, fmt.Errorf("sandbox: %w", err)
		}
	}
	var missing error
	if cfg.Bwrap == "" {
		cfg.Bwrap, missing = exec.LookPath("bwrap")
	}
	s = &Sandbox{cfg: cfg}
	if cfg.MaxTier == 0 {
		return s, nil
	}
	if s.dir, err = os.MkdirTemp("", "nofx-sandbox-"); err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	for name, content := range map[string]string{
		passwdFile: fmt.Sprintf("root:x:0:0:root:/:/usr/sbin/nologin\nnofx:x:%d:%d:nofx:/tmp:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n", uid, uid),
		groupFile:  fmt.Sprintf("root:x:0:\nnofx:x:%d:\nnogroup:x:65534:\n", uid),
		hostsFile:  "127.0.0.1 localhost nofx\n::1 localhost nofx\n",
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o644); err != nil {
			return nil, fmt.Errorf("sandbox: %w", err)
		}
	}
	for tier := cfg.MaxTier; tier > 0; tier-- {
		why := missing
		if tier < 2 || why == nil {
			why = s.probe(ctx, tier)
		} else {
			why = errors.New("bubblewrap (bwrap) is not installed")
		}
		if why == nil {
			s.tier = tier
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.higher = append(s.higher, fmt.Sprintf("tier %d: %v", tier, why))
	}
	return s, nil
}

// probe runs in a tier a command that tries what it must not be able to do, and returns why
// the tier does not hold, or nil.
func (s *Sandbox) probe(ctx context.Context, tier int) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	dir, err := os.MkdirTemp(s.dir, "probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	target := confine.Target{
		PID: os.Getpid(), Canary: rand.Text(), File: filepath.Join(dir, "canary"),
		Sockets: [2]string{filepath.Join(dir, "socket"), "nofx-" + rand.Text()}, Workspace: filepath.Join(dir, "workspace"),
	}
	if err := errors.Join(os.Mkdir(target.Workspace, 0o700), os.WriteFile(target.File, []byte(target.Canary), 0o600)); err != nil {
		return err
	}
	listeners, err := listen(&target)
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	if err != nil {
		return err
	}
	argument, err := json.Marshal(target)
	if err != nil {
		return err
	}
	helper := s.cfg.Helper
	if tier >= 2 {
		helper = helperInside
	}
	var out, complaint bytes.Buffer
	exit, err := s.exec(ctx, Command{
		Argv: []string{helper, confine.ProbeArg, string(argument)}, Dir: target.Workspace, Env: helperEnv,
		Writable: []string{target.Workspace}, Readable: []string{s.cfg.Helper}, Stdout: &out, Stderr: &complaint,
	}, tier)
	var found confine.Findings
	switch {
	case err != nil && complaint.Len() > 0:
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	case err != nil:
		return err
	case exit.Code != 0 || json.Unmarshal(out.Bytes(), &found) != nil:
		return fmt.Errorf("the probe ended with exit code %d and %q", exit.Code, complaint.String())
	case len(found.Could) > 0:
		return fmt.Errorf("code of a step could %s", strings.Join(found.Could, ", "))
	case len(found.Failed) > 0:
		return fmt.Errorf("code of a step could not %s", strings.Join(found.Failed, ", "))
	}
	return nil
}

// listen opens what a probe tries to connect to, and returns what to close, also beside an
// error.
func listen(t *confine.Target) (all []net.Listener, err error) {
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", t.Sockets[0]}, {"unix", "@" + t.Sockets[1]}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	t.Port = all[0].Addr().(*net.TCPAddr).Port
	return all, nil
}
