package confine

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"syscall"
	"time"
)

// Spec is a command on its way to its helper. Paths, arguments and variables are bytes, as
// those of the system are.
type Spec struct {
	Path, Dir []byte
	Argv, Env [][]byte

	Tier     int      // 0: the command keeps its rights
	Writable []string // absolute paths that it may change
	Readable []string // absolute paths that it may read and execute, besides those; missing ones are skipped
	Network  bool     // it may open internet sockets, of the machine
	Proxy    string   // path of a Unix socket that it reaches as ProxyAddress; "": none
	Limits   Limits
}

// ProxyAddress is where the helper listens for a command that has a proxy. The namespace is
// the command's own, so that the port is free when it starts.
const ProxyAddress = "127.0.0.1:3128"

// Limits are what a command may take, all its processes together unless said otherwise. 0 is
// no limit.
type Limits struct {
	Memory    int64 // bytes
	Processes int   // processes
	Disk      int64 // bytes in the writable folders; of one file as well
	Files     int64 // files in the writable folders
}

// Report is how a command ended.
type Report struct {
	Exit    Exit
	Errno   int    // why the program could not be started, else 0
	Refused string // why the command was not isolated and so not started, else ""
}

// Exit is how a command ended and what its processes consumed.
type Exit struct {
	Code         int            // exit code, -1 if a signal ended the main process
	Signal       syscall.Signal // that signal, else 0
	Killed       bool           // it ended because its worker said so
	Over         string         // the limit that ended it: memory, processes, disk or files; else ""
	CPU          time.Duration  // user and system, of all processes
	MaxRSS       int64          // bytes: the most that all processes together were seen to have, at least that of the largest
	ReadBytes    int64          // from disks
	WrittenBytes int64          // to disks
}

// The orders that a helper takes on its stdin, after the spec. Its end means OrderKill.
const (
	OrderEnd  = 'e' // SIGTERM, Grace, SIGKILL
	OrderKill = 'k'
)

// Grace is how long a command that is asked to end may take before it is killed.
const Grace = 3 * time.Second

// Encode returns s as DecodeSpec reads it: four bytes of length, then JSON.
func (s Spec) Encode() []byte {
	body, err := json.Marshal(s)
	if err != nil {
		panic(err) // it has nothing that JSON could not hold
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// DecodeSpec reads a spec, and nothing of what follows it.
func DecodeSpec(r io.Reader) (s Spec, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return s, err
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(binary.BigEndian.Uint32(size[:]))))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, err
	}
	if len(s.Path) == 0 || len(s.Argv) == 0 {
		return s, fmt.Errorf("a spec of %d bytes has no command", len(body))
	}
	return s, nil
}

// bytesOf returns texts as bytes.
func bytesOf(texts []string) [][]byte {
	all := make([][]byte, len(texts))
	for i, t := range texts {
		all[i] = []byte(t)
	}
	return all
}

// NewSpec returns the spec of a command without restrictions.
func NewSpec(path, dir string, argv, env []string) Spec {
	return Spec{Path: []byte(path), Dir: []byte(dir), Argv: bytesOf(argv), Env: bytesOf(env)}
}

// texts returns bytes as texts.
func texts(all [][]byte) []string {
	t := make([]string, len(all))
	for i, b := range all {
		t[i] = string(b)
	}
	return t
}
