// Package s3server starts a real S3 server, for tests and for `stack`.
//
// The server is versitygw, which keeps objects as files. It is a program of its
// own: the folder versitygw is a module outside the workspace that pins it and
// starts it, so that its many modules join no process of ours. The program is
// built once into the user's cache (build.go) and runs as a child that dies with
// the process that started it.
package s3server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"nofx.dev/shared/servertest/child"
	"nofx.dev/shared/servertest/datadir"
)

// Config says where and how; its zero value is a server for tests.
type Config struct {
	// Dir keeps the objects between starts. When it is empty they are in a
	// temporary directory that Stop removes.
	Dir string
	// Log gets what the server writes; nil drops it.
	Log io.Writer
	// Progress is told what takes long, in a few words; nil drops it.
	Progress func(string)
}

// Server is an S3 server that answers at Endpoint, a plain http URL. Its
// buckets are addressed by path.
type Server struct {
	Endpoint  string
	AccessKey string
	SecretKey string
	Region    string

	dir    *datadir.Dir
	proc   *child.Process
	client *minio.Client
	once   sync.Once
}

// Start builds the server if need be, starts it and returns when it answers.
// ctx bounds the start, not the server's life. Whoever starts a server stops it.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	program, err := build(ctx, cfg.Progress)
	if err != nil {
		return nil, err
	}
	dir, err := datadir.Open(ctx, cfg.Dir, "s3")
	if err != nil {
		return nil, err
	}
	s := &Server{AccessKey: "nofx", Region: "us-east-1", dir: dir}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	for _, sub := range []string{"objects", "metadata"} {
		if err := os.MkdirAll(filepath.Join(dir.Path, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make a directory for s3: %w", err)
		}
	}
	if s.SecretKey, err = dir.Secret("secret"); err != nil {
		return nil, fmt.Errorf("secret of the S3 server: %w", err)
	}
	// Between finding a port and using it another process may take it.
	for try := 1; ; try++ {
		if err = s.serve(ctx, program, cfg.Log); err == nil {
			return s, nil
		}
		if try == 5 || !errors.Is(err, errEnded) {
			return nil, fmt.Errorf("start S3 server: %w", err)
		}
	}
}

// MakeBucket makes a bucket, unless it is there.
func (s *Server) MakeBucket(ctx context.Context, name string) error {
	err := s.client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: s.Region})
	if err != nil && minio.ToErrorResponse(err).Code != minio.BucketAlreadyOwnedByYou {
		return fmt.Errorf("make bucket %s: %w", name, err)
	}
	return nil
}

// Done returns a channel that is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Stop ends the server and waits for it; temporary objects are removed.
func (s *Server) Stop() {
	s.once.Do(func() {
		if s.proc != nil {
			s.proc.Stop(syscall.SIGTERM, 5*time.Second)
		}
		s.dir.Close()
	})
}

// errEnded marks a server that ended before it answered.
var errEnded = errors.New("it ended by itself")

func (s *Server) serve(ctx context.Context, program string, log io.Writer) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	addr := l.Addr().String()
	l.Close()

	cmd := exec.Command(program, "-addr", addr, "-region", s.Region,
		"-metadata", filepath.Join(s.dir.Path, "metadata"), "-objects", filepath.Join(s.dir.Path, "objects"))
	cmd.Env = append(environment(), "ROOT_ACCESS_KEY_ID="+s.AccessKey, "ROOT_SECRET_ACCESS_KEY="+s.SecretKey)
	cmd.ExtraFiles = []*os.File{s.dir.Lock}
	var out bytes.Buffer // read only after the process has ended
	cmd.Stdout = log
	cmd.Stderr = io.MultiWriter(log, &limited{buf: &out})
	cmd.WaitDelay = 5 * time.Second
	p, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	s.proc, s.Endpoint = p, "http://"+addr
	s.client, err = minio.New(addr, &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: s.Region,
		BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := s.client.ListBuckets(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%w: %w: %s", errEnded, p.Err(), strings.TrimSpace(out.String()))
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// limited keeps the first 4 KiB, enough for why a server did not start.
type limited struct{ buf *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := 4096 - l.buf.Len(); room > 0 {
		l.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// environment returns the environment of this process without the settings that the server reads.
func environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "VGW_") && !strings.HasPrefix(kv, "ROOT_") &&
			!strings.HasPrefix(kv, "LOGFILE=") && !strings.HasPrefix(kv, "WEBHOOK=") {
			env = append(env, kv)
		}
	}
	return env
}
