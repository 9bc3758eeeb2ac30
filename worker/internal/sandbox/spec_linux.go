package sandbox

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// spec is a command on its way to the helper: a length of four bytes, then
// strings that end in NUL, which keeps every byte that an argument can hold.
type spec struct {
	path, dir string
	argv, env []string
}

func (s spec) encode() []byte {
	fields := append([]string{s.path, s.dir, strconv.Itoa(len(s.argv))}, s.argv...)
	fields = append(fields, s.env...)
	body := strings.Join(fields, "\x00")
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func decodeSpec(r io.Reader) (spec, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return spec{}, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return spec{}, err
	}
	fields := strings.Split(string(body), "\x00")
	if len(fields) < 3 {
		return spec{}, fmt.Errorf("%d fields", len(fields))
	}
	argc, err := strconv.Atoi(fields[2])
	if err != nil || argc < 1 || argc > len(fields)-3 {
		return spec{}, fmt.Errorf("%q arguments in %d fields", fields[2], len(fields))
	}
	return spec{path: fields[0], dir: fields[1], argv: fields[3 : 3+argc], env: fields[3+argc:]}, nil
}

// report is the helper's last word, as JSON.
type report struct {
	Exit  Exit
	Errno int // why the program could not be started, else 0
}
