package postgres_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"nofx.dev/shared/postgres"
)

// What the kernel is told of a connection: when to probe one that is silent, and
// when to give one up that does not acknowledge.
func TestDial(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := postgres.Dialer(time.Second).DialContext(t.Context(), "tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
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
