package blob

import (
	"context"
	"fmt"
	"os"
	"testing"

	"nofx.dev/shared/servertest/s3server"
)

// server is a real S3 server with one bucket; tests keep apart by the tenant in
// their keys.
var server *s3server.Server

const testBucket = "nofx-blob"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if server, err = s3server.Start(context.Background(), s3server.Config{}); err != nil {
		fmt.Fprintln(os.Stderr, "start object storage:", err)
		return 1
	}
	defer server.Stop()
	if err := server.MakeBucket(context.Background(), testBucket); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// open makes a store on the bucket, with a configuration that edit may change.
func open(t testing.TB, edit func(*Config)) *Store {
	t.Helper()
	cfg := Config{Endpoint: server.Endpoint, Bucket: testBucket, Region: server.Region,
		AccessKey: server.AccessKey, SecretKey: server.SecretKey}
	if edit != nil {
		edit(&cfg)
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("Open(%s, %s): %v", cfg.Endpoint, cfg.Bucket, err)
	}
	return s
}
