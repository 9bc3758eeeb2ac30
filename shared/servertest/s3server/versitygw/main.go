// Command versitygw is an S3 server that keeps objects as files: versitygw with its
// posix backend and one account, and without its other backends and commands, which
// take longer to compile than all that is used of it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3api/utils"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:9000", "where to listen")
	region := flag.String("region", "us-east-1", "the region of all buckets")
	metadata := flag.String("metadata", "", "folder of the objects' metadata: not every file system has attributes")
	objects := flag.String("objects", "", "folder of the objects")
	flag.Parse()
	if err := serve(*addr, *region, *metadata, *objects); err != nil {
		fmt.Fprintln(os.Stderr, "versitygw:", err)
		os.Exit(1)
	}
}

func serve(addr, region, metadata, objects string) (err error) {
	account := auth.Account{Access: os.Getenv("ROOT_ACCESS_KEY_ID"), Secret: os.Getenv("ROOT_SECRET_ACCESS_KEY"), Role: auth.RoleAdmin}
	if account.Access == "" || account.Secret == "" {
		return errors.New("ROOT_ACCESS_KEY_ID and ROOT_SECRET_ACCESS_KEY are the account's")
	}
	sidecar, err := meta.NewSideCar(metadata)
	if err != nil {
		return err
	}
	files, err := posix.New(objects, sidecar, posix.PosixOpts{SideCarDir: metadata, NewDirPerm: 0o755})
	if err != nil {
		return err
	}
	defer files.Shutdown()
	utils.SetBucketNameValidationStrict(true)
	server, err := s3api.New(files, middlewares.RootUserConfig{Access: account.Access, Secret: account.Secret}, addr, region,
		auth.NewIAMServiceSingle(account), nil, nil, nil, nil, s3api.WithQuiet(), s3api.WithKeepAlive())
	if err != nil {
		return err
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGINT, syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve() }()
	select {
	case err := <-ended:
		return err
	case <-asked:
		return server.ShutDown()
	}
}
