package main

import (
	"context"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
)

const (
	discoveredWithin = 10 * time.Second
	maxDiscovered    = 1024
)

// finder hears of the peers on the local network.
type finder struct {
	node  *node
	dials bool
	told  map[peer.ID]bool
}

func (n *node) discover(dials bool) error {
	return mdns.NewMdnsService(n.host, "", &finder{n, dials, map[peer.ID]bool{}}).Start()
}

// HandlePeerFound is called by one goroutine, and again each time that a peer is heard of.
func (f *finder) HandlePeerFound(found peer.AddrInfo) {
	if found.ID == f.node.host.ID() || f.told[found.ID] || len(f.told) >= maxDiscovered {
		return
	}
	f.told[found.ID] = true
	f.node.out.event("discovered", fields{"peer": found.ID.String(), "addrs": texts(found.Addrs), "by": "mdns"})
	if !f.dials {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), discoveredWithin)
		defer cancel()
		if err := f.node.host.Connect(ctx, found); err != nil {
			f.node.out.complain("%s, found by mDNS: %v", found.ID, err)
		}
	}()
}
