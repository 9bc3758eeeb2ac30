package main

import (
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	"nofx.dev/shared/seal"
)

const kekUsage = `usage: gateway kek create FILE

Makes the key that secrets of tenants are sealed with, in a file that only its owner may read,
and prints what gateways and workers take for it. A file that exists is left as it is. Keep
a copy of the key elsewhere than backups of the database: without it secrets are lost.
`

// kek runs `gateway kek`.
func kek(args []string, stdout, stderr io.Writer) error {
	if asksHelp(args) {
		_, err := io.WriteString(stdout, kekUsage)
		return err
	}
	if len(args) != 2 || args[0] != "create" || args[1] == "" || args[1][0] == '-' {
		return misused(stderr, "gateway kek", args, kekUsage)
	}
	path, err := filepath.Abs(args[1])
	if err != nil {
		return err
	}
	if err := seal.Create(path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "NOFX_KEK=%s\n", &url.URL{Scheme: "file", Path: path})
	return err
}
