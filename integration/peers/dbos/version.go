package main

import "runtime/debug"

// version returns the version of the library, as it was built in.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/dbos-inc/dbos-transact-golang" {
			return m.Version
		}
	}
	return ""
}
