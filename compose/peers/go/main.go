// A go-libp2p node that speaks the peer contract (docs/contract.md): JSON lines on stdin and stdout, logs on stderr.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const badUsage = 2

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "go-libp2p peer: %v\n", err)
		os.Exit(badUsage)
	}
}

func run() error {
	options, err := parseOptions(os.Args[1:])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	out := newOutput(os.Stdout)
	node, err := newNode(options, out)
	if err != nil {
		return err
	}
	node.announce()
	newControl(node, out).serve(ctx, os.Stdin)
	node.close()
	out.event("stopped", fields{})
	return nil
}
