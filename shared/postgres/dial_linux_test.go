package postgres_test

import (
	"net"
	"syscall"
	"testing"

	"nofx.dev/shared/postgres"
)

// What the kernel is told of a connection: when to probe one that is silent, and
// when to give one up that does not acknowledge.
func TestDial(t *testing.T) {
	t.Parallel()
	conn, err := postgres.PoolOf(setup(t).DB).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tcp, ok := conn.Conn().PgConn().Conn().(*net.TCPConn)
	if !ok {
		t.Skip("the server of this machine is reached by no TCP")
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[int]int{syscall.TCP_KEEPIDLE: 5, syscall.TCP_KEEPINTVL: 5, syscall.TCP_KEEPCNT: 2, 18: 10_000} {
		var got int
		if failed := raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option) }); failed != nil || err != nil {
			t.Fatal(failed, err)
		}
		if got != want {
			t.Errorf("TCP option %d = %d, want %d", option, got, want)
		}
	}
}
