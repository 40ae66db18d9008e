package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	ma "github.com/multiformats/go-multiaddr"
)

// reached is what AutoNAT has found of us so far.
type reached struct {
	all   network.Reachability
	addrs map[string]string
}

func word(of network.Reachability) string {
	switch of {
	case network.ReachabilityPublic:
		return "public"
	case network.ReachabilityPrivate:
		return "private"
	default:
		return "unknown"
	}
}

func (n *node) reachabilityIs(now network.Reachability) {
	n.mutex.Lock()
	n.reached.all = now
	n.mutex.Unlock()
	n.out.event("reachability", n.reachable())
}

func (n *node) addrsReached(now event.EvtHostReachableAddrsChanged) {
	addrs := map[string]string{}
	for verdict, of := range map[string][]ma.Multiaddr{
		"public": now.Reachable, "private": now.Unreachable, "unknown": now.Unknown,
	} {
		for _, addr := range of {
			addrs[addr.String()] = verdict
		}
	}
	n.mutex.Lock()
	n.reached.addrs = addrs
	n.mutex.Unlock()
	n.out.event("reachability", n.reachable())
}

func (n *node) reachable() fields {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	addrs := n.reached.addrs
	if addrs == nil {
		addrs = map[string]string{}
	}
	relays := make([]string, 0, len(n.circuits))
	for _, circuit := range n.circuits {
		relays = append(relays, circuit.String())
	}
	return fields{"reachability": word(n.reached.all), "addrs": addrs, "relays": relays}
}

func (n *node) reachability(context.Context, *request) (fields, error) { return n.reachable(), nil }

// autonat has one server test addresses of ours, by the client of go for that version.
func (n *node) autonat(ctx context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	if n.host.Network().Connectedness(who) != network.Connected {
		return nil, refuse("closed", fmt.Errorf("there is no connection to %s", who))
	}
	switch {
	case r.Version == 1:
		return n.autonatFirst(ctx, who)
	case r.Version != 2:
		return nil, refuse("bad-argument", errors.New("`version` must be 1 or 2"))
	case n.asksOften:
		return nil, &missing{"autonat beside --reachability auto or as a relay"}
	}
	return n.autonatSecond(ctx, who, r.Addrs)
}

func (n *node) autonatFirst(ctx context.Context, server peer.ID) (fields, error) {
	err := autonat.NewAutoNATClient(n.host, n.candidates, nil).DialBack(ctx, server)
	var refused autonat.Error
	switch {
	case err == nil:
		// The client of go keeps to itself which address the server has reached.
		return fields{"status": "OK", "why": "", "reachable": true}, nil
	case errors.As(err, &refused):
		return fields{"status": refused.Status.String(), "why": refused.Error(), "reachable": false}, nil
	default:
		return nil, err
	}
}

func (n *node) autonatSecond(ctx context.Context, server peer.ID, asked []string) (fields, error) {
	requests, err := n.toTest(asked)
	if err != nil {
		return nil, err
	}
	// Client and server are one in go, and the server closes the host that it would dial from. That one asks nobody itself:
	// it would have the server whom it dials test the address that it comes from.
	idle, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics(), libp2p.ForceReachabilityPrivate())
	if err != nil {
		return nil, err
	}
	client, err := autonatv2.New(idle)
	if err != nil {
		return nil, errors.Join(err, idle.Close())
	}
	if err := client.Start(n.host); err != nil {
		return nil, errors.Join(err, idle.Close())
	}
	defer client.Close() // and idle with it
	if err := n.introduce(server); err != nil {
		return nil, err
	}
	for {
		result, err := client.GetReachability(ctx, requests)
		switch {
		case errors.Is(err, autonatv2.ErrNoPeers) && ctx.Err() == nil:
			if err := pause(ctx); err != nil { // until it has heard of the server
				return nil, refuse("refused", fmt.Errorf("%s serves no AutoNAT v2", server))
			}
		case err != nil:
			return nil, err
		case result.AllAddrsRefused:
			return nil, refuse("refused", errors.New("the server dials none of these addresses"))
		default:
			return fields{
				"addr": result.Addr.String(), "reachable": result.Reachability == network.ReachabilityPublic,
			}, nil
		}
	}
}

// introduce tells whoever collects AutoNAT servers of one that we are connected to already.
func (n *node) introduce(server peer.ID) error {
	emitter, err := n.host.EventBus().Emitter(new(event.EvtPeerProtocolsUpdated))
	if err != nil {
		return err
	}
	defer emitter.Close()
	return emitter.Emit(event.EvtPeerProtocolsUpdated{Peer: server})
}

// candidates are the addresses that others see us at.
func (n *node) candidates() []ma.Multiaddr {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	var all []ma.Multiaddr
	for text := range n.observed {
		if addr, err := ma.NewMultiaddr(text); err == nil {
			all = append(all, addr)
		}
	}
	return all
}

func (n *node) toTest(asked []string) ([]autonatv2.Request, error) {
	var requests []autonatv2.Request
	for _, text := range asked {
		addr, err := ma.NewMultiaddr(text)
		if err != nil {
			return nil, refuse("bad-argument", fmt.Errorf("`addrs`: %w", err))
		}
		requests = append(requests, autonatv2.Request{Addr: addr, SendDialData: true})
	}
	if len(asked) == 0 {
		for _, addr := range n.candidates() {
			requests = append(requests, autonatv2.Request{Addr: addr, SendDialData: true})
		}
	}
	if len(requests) == 0 {
		return nil, refuse("refused", errors.New("nobody has told us an address of ours yet"))
	}
	return requests, nil
}
