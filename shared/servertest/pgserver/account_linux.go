package pgserver

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// capDACOverride lets a process pass folders that are not its own.
const capDACOverride = 1

// unprivileged returns how to start a program that refuses to run as root: nil as this
// process, when its user is not root and has a name (initdb asks for it); else under
// the name of somebody, first in a user namespace, where our own uid only looks like
// his, so that files stay ours and folders only we may enter do not matter;
// where namespaces are forbidden, really as him.
func unprivileged(program string) (*syscall.SysProcAttr, error) {
	uid := os.Geteuid()
	if _, err := user.LookupId(strconv.Itoa(uid)); err == nil && uid != 0 {
		return nil, nil
	}
	somebody, gid, err := account()
	if err != nil {
		return nil, err
	}
	ways := []*syscall.SysProcAttr{namespace(somebody, gid)}
	if uid == 0 {
		ways = append(ways, credential(somebody, gid, capDACOverride), credential(somebody, gid))
	}
	var errs []error
	for _, way := range ways {
		err := command(way, program, "--version").Run()
		if err == nil {
			return way, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%s refuses to run as uid %d, and no other way works: %w", filepath.Base(program), uid, errors.Join(errs...))
}

func namespace(uid, gid int) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getegid(), Size: 1}},
	}
}

func credential(uid, gid int, caps ...uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		AmbientCaps: caps,
	}
}

// account returns an unprivileged user that this machine knows.
func account() (uid, gid int, err error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid != 0 {
			return uid, gid, nil
		}
	}
	return 0, 0, errors.New("postgres refuses to run as root, and there is no user postgres or nobody to run it as")
}
