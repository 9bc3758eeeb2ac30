package confine

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Limits of a relay.
const (
	relayClients = 64               // at once; others wait in the kernel's queue
	relayLinger  = 30 * time.Second // for a client to end its side when the proxy has ended
)

// relay listens on ProxyAddress and passes bytes on to and from a Unix socket, until the
// process ends. It knows nothing of what passes: who listens at the other end decides.
func relay(socket string) error {
	l, err := net.Listen("tcp4", ProxyAddress)
	if err != nil {
		return fmt.Errorf("listen for the proxy's clients: %w", err)
	}
	go func() {
		slots := make(chan struct{}, relayClients)
		for {
			slots <- struct{}{} // which leaves descriptors for everything else
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { <-slots }()
				defer client.Close()
				pass(client.(*net.TCPConn), socket)
			}()
		}
	}()
	return nil
}

// pass connects a client to the socket until both have ended. The end of one side is passed
// on; the proxy says how long a connection may be open.
func pass(client *net.TCPConn, socket string) {
	proxy, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return
	}
	defer proxy.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(proxy, client)
		_ = proxy.CloseWrite()
	})
	_, _ = io.Copy(client, proxy)
	_ = client.CloseWrite()
	_ = client.SetReadDeadline(time.Now().Add(relayLinger))
	wg.Wait()
}
