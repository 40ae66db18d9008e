package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	echoProtocol = protocol.ID("/echo/1.0.0")
	perfProtocol = protocol.ID("/perf/1.0.0")
	echoMost     = 1 << 30
	perfMost     = 1 << 34
	block        = 64 << 10
	dcutrWithin  = 4 * time.Second
	lookEvery    = 20 * time.Millisecond
)

func (n *node) commands() map[string]command {
	return map[string]command{
		"info": n.info, "dial": n.dial, "reserve": n.reserve, "echo": n.echo, "ping": n.ping,
		"connections": n.connections, "disconnect": n.disconnect, "perf": n.perf, "protocols": n.protocols,
		"autonat": n.autonat, "reachability": n.reachability, "protect": n.protect, "unprotect": n.unprotect,
	}
}

func (n *node) info(context.Context, *request) (fields, error) {
	n.mutex.Lock()
	observed := make([]string, 0, len(n.observed))
	for addr := range n.observed {
		observed = append(observed, addr)
	}
	n.mutex.Unlock()
	slices.Sort(observed)
	return fields{
		"peer": n.host.ID().String(), "addrs": n.full(n.host.Addrs()), "observed": observed, "agent": n.agent,
		"version": n.version, "implementation": implementation,
		"protocols": protocol.ConvertToStrings(n.host.Mux().Protocols()),
	}, nil
}

func target(text string) (*peer.AddrInfo, error) {
	info, err := peer.AddrInfoFromString(text)
	if err != nil {
		return nil, refuse("bad-argument", fmt.Errorf("`addr`: %w", err))
	}
	return info, nil
}

func (n *node) dial(ctx context.Context, r *request) (fields, error) {
	info, err := target(r.Addr)
	if err != nil {
		return nil, err
	}
	_, err = info.Addrs[0].ValueForProtocol(ma.P_CIRCUIT)
	through := err == nil
	if through {
		n.awaitPunching(ctx, info.Addrs[0])
		ctx = network.WithAllowLimitedConn(ctx, "the contract")
	} else if n.best(info.ID, direct) == nil {
		ctx = network.WithForceDirectDial(ctx, "the contract")
	}
	// A dial by the contract is by this address, and not barred by what failed before.
	n.clearBackoff(info.ID)
	n.host.Peerstore().ClearAddrs(info.ID)
	n.host.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.TempAddrTTL)
	connection, err := n.host.Network().DialPeer(ctx, info.ID)
	if err != nil {
		return nil, dialError(ctx, err)
	}
	if better := n.best(info.ID, direct); better != nil {
		connection = better
	}
	rtt, err := n.roundTrip(ctx, info.ID)
	if err != nil {
		return nil, err
	}
	made := n.connection(connection)
	made["rtt"] = rtt
	return made, nil
}

// awaitPunching connects to the relay of an address and waits until go serves DCUtR, which it does not before it knows
// a public address of its own, and looks for one after 250, 500, 1000, … ms. A peer that punches at once would find
// nobody; where go never learns of one, the dial goes on without.
func (n *node) awaitPunching(ctx context.Context, circuit ma.Multiaddr) {
	relay, _ := ma.SplitFunc(circuit, func(c ma.Component) bool { return c.Protocol().Code == ma.P_CIRCUIT })
	info, err := peer.AddrInfoFromP2pAddr(relay)
	if err != nil || n.host.Connect(ctx, *info) != nil {
		return // the dial itself will say why
	}
	n.awaitDcutr(ctx)
}

func (n *node) awaitDcutr(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dcutrWithin)
	defer cancel()
	for !slices.Contains(n.host.Mux().Protocols(), holepunch.Protocol) && pause(ctx) == nil {
	}
}

// pause waits before something is looked at again; it returns the context's error if that ends first.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(lookEvery):
		return nil
	}
}

func (n *node) clearBackoff(who peer.ID) {
	if dialler, ok := n.host.Network().(*swarm.Swarm); ok {
		dialler.Backoff().Clear(who)
	}
}

func dialError(ctx context.Context, err error) error {
	var mismatch sec.ErrPeerIDMismatch
	var all *swarm.DialError
	if errors.As(err, &all) {
		for _, each := range all.DialErrors {
			if errors.As(each.Cause, &mismatch) {
				return refuse("wrong-peer", err)
			}
		}
	}
	if ctx.Err() != nil {
		return refuse("timeout", err)
	}
	return refuse("dial-failed", err)
}

// best returns an open connection with that path, or the one that go would use where path is empty.
func (n *node) best(who peer.ID, wanted string) network.Conn {
	var found network.Conn
	for _, each := range n.host.Network().ConnsToPeer(who) {
		if how := path(each); how == wanted || (wanted == "" && (found == nil || how == direct)) {
			found = each
		}
	}
	return found
}

// roundTrip measures by /ipfs/ping/1.0.0 over the best connection.
func (n *node) roundTrip(ctx context.Context, who peer.ID) (float64, error) {
	ctx, cancel := context.WithCancel(network.WithAllowLimitedConn(ctx, "ping"))
	defer cancel()
	result := <-ping.Ping(ctx, n.host, who)
	if result.Error != nil {
		return 0, fmt.Errorf("ping: %w", result.Error)
	}
	return result.RTT.Seconds(), ctx.Err()
}

func (n *node) reserve(ctx context.Context, r *request) (fields, error) {
	info, err := target(r.Addr)
	if err != nil {
		return nil, err
	}
	if err := n.host.Connect(ctx, *info); err != nil {
		return nil, dialError(ctx, err)
	}
	held, err := client.Reserve(ctx, n.host, *info)
	if err != nil {
		return nil, refuse("refused", err)
	}
	relayed, err := ma.NewMultiaddr(info.Addrs[0].String() + "/p2p/" + info.ID.String() + "/p2p-circuit")
	if err != nil {
		return nil, err
	}
	n.mutex.Lock()
	if !slices.ContainsFunc(n.circuits, relayed.Equal) && len(n.circuits) < maxAtOnce {
		n.circuits = append(n.circuits, relayed)
	}
	n.mutex.Unlock()
	n.awaitDcutr(ctx)
	// Slots are for relayed peers: the connection that holds this one must not be trimmed.
	n.host.ConnManager().Protect(info.ID, "reservation")
	addrs := make([]string, 0, len(held.Addrs))
	for _, each := range held.Addrs {
		addrs = append(addrs, each.String()+"/p2p-circuit/p2p/"+n.host.ID().String())
	}
	expire := float64(held.Expiration.Unix())
	n.out.event("reserved", fields{"relay": info.ID.String(), "expire": expire, "addrs": addrs})
	answer := fields{"relay": info.ID.String(), "expire": expire, "addrs": addrs, "voucher": held.Voucher != nil, "limit": nil}
	if held.LimitData != 0 || held.LimitDuration != 0 {
		answer["limit"] = fields{"duration": int64(held.LimitDuration.Seconds()), "data": held.LimitData}
	}
	return answer, nil
}

func known(text string) (peer.ID, error) {
	who, err := peer.Decode(text)
	if err != nil {
		return "", refuse("bad-argument", fmt.Errorf("`peer`: %w", err))
	}
	return who, nil
}

// open makes a stream over the best connection, whether limited or not.
func (n *node) open(ctx context.Context, who peer.ID, by protocol.ID) (network.Stream, error) {
	stream, err := n.host.NewStream(network.WithAllowLimitedConn(ctx, "the contract"), who, by)
	if err != nil {
		return nil, dialError(ctx, err)
	}
	if until, ok := ctx.Deadline(); ok {
		if err := stream.SetDeadline(until); err != nil {
			return nil, errors.Join(err, stream.Reset())
		}
	}
	return stream, nil
}

func (n *node) echo(ctx context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	if r.Bytes < 0 || r.Bytes > echoMost {
		return nil, refuse("bad-argument", fmt.Errorf("`bytes` must be from 0 to %d", echoMost))
	}
	by := echoProtocol
	if r.Protocol != "" {
		by = protocol.ID(r.Protocol)
	}
	stream, err := n.open(ctx, who, by)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := exchange(stream, r.Bytes); err != nil {
		return nil, errors.Join(refuse("reset", err), stream.Reset())
	}
	seconds := time.Since(began).Seconds()
	rtt, err := n.roundTrip(ctx, who)
	if err != nil {
		return nil, err
	}
	c := stream.Conn()
	return fields{
		"path": path(c), "bytes": r.Bytes, "seconds": seconds, "remote": c.RemoteMultiaddr().String(), "rtt": rtt,
	}, nil
}

// exchange sends random bytes in blocks, and compares what comes back while it sends.
func exchange(stream network.Stream, size int64) error {
	sent := make(chan []byte, 16)
	failed := make(chan error, 1)
	go func() {
		defer close(sent)
		for left := size; left > 0; {
			data := make([]byte, min(left, block))
			rand.Read(data)
			sent <- data
			if _, err := stream.Write(data); err != nil {
				failed <- err
				return
			}
			left -= int64(len(data))
		}
		failed <- stream.CloseWrite()
	}()
	back := make([]byte, block)
	var wrong error
	for data := range sent {
		if wrong != nil {
			continue // the writer must come to its end
		}
		if _, err := io.ReadFull(stream, back[:len(data)]); err != nil {
			wrong = err
		} else if !bytes.Equal(data, back[:len(data)]) {
			wrong = errors.New("the echo differs from what was sent")
		}
		if wrong != nil {
			wrong = errors.Join(wrong, stream.Reset())
		}
	}
	return errors.Join(wrong, <-failed, stream.Close())
}

func (n *node) serveEcho(stream network.Stream) {
	if _, err := io.Copy(stream, stream); err != nil {
		n.drop(stream)
		return
	}
	if err := stream.Close(); err != nil {
		n.drop(stream)
	}
}

func (n *node) drop(stream network.Stream) {
	if err := stream.Reset(); err != nil {
		n.out.complain("resetting %s: %v", stream.Protocol(), err)
	}
}

func (n *node) ping(ctx context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	rtt, err := n.roundTrip(ctx, who)
	if err != nil {
		return nil, err
	}
	c := n.best(who, "")
	if c == nil {
		return nil, refuse("closed", errors.New("the connection has ended"))
	}
	return fields{"rtt": rtt, "path": path(c)}, nil
}

func (n *node) connections(context.Context, *request) (fields, error) {
	open := []fields{}
	for _, c := range n.host.Network().Conns() {
		about := n.connection(c)
		n.mutex.Lock()
		about["since"] = float64(n.since[c.ID()].UnixMicro()) / 1e6
		n.mutex.Unlock()
		open = append(open, about)
	}
	return fields{"connections": open}, nil
}

func (n *node) disconnect(_ context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	count := len(n.host.Network().ConnsToPeer(who))
	return fields{"closed": count}, n.host.Network().ClosePeer(who)
}

func (n *node) protect(_ context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	n.host.ConnManager().Protect(who, r.Tag)
	return fields{"protected": true}, nil
}

func (n *node) unprotect(_ context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	return fields{"protected": n.host.ConnManager().Unprotect(who, r.Tag)}, nil
}

func (n *node) protocols(_ context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	served, err := n.host.Peerstore().GetProtocols(who)
	if err != nil {
		return nil, err
	}
	names := protocol.ConvertToStrings(served)
	slices.Sort(names)
	return fields{"protocols": names}, nil
}

func (n *node) perf(ctx context.Context, r *request) (fields, error) {
	who, err := known(r.Peer)
	if err != nil {
		return nil, err
	}
	if min(r.Upload, r.Download) < 0 || max(r.Upload, r.Download) > perfMost {
		return nil, refuse("bad-argument", fmt.Errorf("`upload` and `download` must be from 0 to %d", int64(perfMost)))
	}
	stream, err := n.open(ctx, who, perfProtocol)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	err = binary.Write(stream, binary.BigEndian, uint64(r.Download))
	if err == nil {
		err = pour(stream, r.Upload)
	}
	if err == nil {
		err = stream.CloseWrite()
	}
	uploaded := time.Since(began)
	var got int64
	if err == nil {
		got, err = io.CopyBuffer(onlyWriter{io.Discard}, stream, make([]byte, block))
	}
	if err == nil && got != r.Download {
		err = fmt.Errorf("%d bytes came instead of %d", got, r.Download)
	}
	if err != nil {
		return nil, errors.Join(refuse("reset", err), stream.Reset())
	}
	downloaded := time.Since(began) - uploaded
	return fields{
		"upload_seconds": uploaded.Seconds(), "download_seconds": downloaded.Seconds(), "path": path(stream.Conn()),
	}, stream.Close()
}

func (n *node) servePerf(stream network.Stream) {
	var wanted uint64
	err := binary.Read(stream, binary.BigEndian, &wanted)
	if err == nil {
		_, err = io.CopyBuffer(onlyWriter{io.Discard}, stream, make([]byte, block))
	}
	if err == nil && wanted <= perfMost {
		err = pour(stream, int64(wanted))
	}
	if err == nil {
		err = stream.Close()
	}
	if err != nil {
		n.drop(stream)
	}
}

// onlyWriter hides ReadFrom, so that the given buffer is used.
type onlyWriter struct{ io.Writer }

func pour(to io.Writer, size int64) error {
	data := make([]byte, block)
	for size > 0 {
		wrote, err := to.Write(data[:min(size, block)])
		if err != nil {
			return err
		}
		size -= int64(wrote)
	}
	return nil
}
