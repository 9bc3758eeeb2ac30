// Command nofx is the command line of the gateway. It uses only HTTP, through
// nofx.dev/gateway/api.
//
// root.go holds the tree of commands, the global flags and the exit codes; client.go sends
// requests and reads responses; stream.go reads streams and reconnects; progress.go and
// board.go implement `run watch`, and why.go explains waits and failures. Every other file
// is one noun.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, surroundings(), os.Args[1:])
	stop()
	os.Exit(code)
}

// surroundings returns an app with the streams and environment of this process.
func surroundings() *app {
	a := &app{
		in: os.Stdin, out: os.Stdout, errOut: os.Stderr,
		getenv:    os.Getenv,
		configDir: os.UserConfigDir,
		now:       time.Now,
		pause:     pause,
		look:      5 * time.Second,
		stall:     stallTimeout,
	}
	out := int(os.Stdout.Fd())
	a.terminal = term.IsTerminal(out)
	if a.terminal && os.Getenv("TERM") != "dumb" {
		a.screen = func() (width, height int) {
			width, height, err := term.GetSize(out)
			return sized(width, height, err)
		}
	}
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		a.prompt = func(question string) (string, error) {
			fmt.Fprint(os.Stderr, question)
			answer, err := term.ReadPassword(in)
			fmt.Fprintln(os.Stderr)
			return string(answer), err
		}
		a.ask = func(ctx context.Context, question string) (string, error) {
			fmt.Fprint(os.Stderr, question)
			answer := make(chan string, 1)
			go func() { // not waited for: after Ctrl-C no line may come, and the process ends
				line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
				answer <- line
			}()
			select {
			case line := <-answer:
				return strings.TrimSpace(line), nil
			case <-ctx.Done():
				fmt.Fprintln(os.Stderr)
				return "", ctx.Err()
			}
		}
	}
	return a
}

// sized returns the size of a terminal as reported, or a common size: some terminals, for
// example behind pipes, report 0×0.
func sized(width, height int, err error) (int, int) {
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}
	return width, height
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
