package main

import (
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/observedaddrs"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	implementation = "go-libp2p"
	module         = "github.com/libp2p/go-libp2p"
	relayed        = "relayed"
	direct         = "direct"
)

// node is the host and what it remembers for the contract.
type node struct {
	host    host.Host
	out     *output
	version string
	agent   string
	// go itself asks AutoNAT servers, or is one: then it has its client's one handler of their dials.
	asksOften bool

	mutex    sync.Mutex
	circuits []ma.Multiaddr       // addresses at relays that granted a slot; one a relay
	observed map[string]time.Time // addresses that peers said they see us at
	since    map[string]time.Time // connections by id
	reached  reached
}

func newNode(o *options, out *output) (*node, error) {
	key, err := o.identity()
	if err != nil {
		return nil, err
	}
	// A lab may hold one peer that can observe us; go would believe four.
	observedaddrs.ActivationThresh = 1
	n := &node{out: out, version: version(), observed: map[string]time.Time{}, since: map[string]time.Time{}}
	n.agent = implementation + "/" + n.version
	settings := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.UserAgent(n.agent),
		libp2p.ListenAddrStrings(o.listen...),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Transport(websocket.New),
		libp2p.Muxer("/yamux/1.0.0", yamux.DefaultTransport),
		libp2p.AddrsFactory(n.advertise),
		libp2p.EnableRelay(),
		libp2p.EnableHolePunching(holepunch.WithTracer(n)),
		libp2p.DisableMetrics(),
	}
	for _, name := range o.security {
		if name == "noise" {
			settings = append(settings, libp2p.Security(noise.ID, noise.New))
		} else {
			settings = append(settings, libp2p.Security(tls.ID, tls.New))
		}
	}
	settings = append(settings, n.roleOf(o)...)
	n.host, err = libp2p.New(settings...)
	if err != nil {
		return nil, err
	}
	n.host.Network().Notify(&network.NotifyBundle{ConnectedF: n.connected, DisconnectedF: n.disconnected})
	n.host.SetStreamHandler(echoProtocol, n.serveEcho)
	n.host.SetStreamHandler(perfProtocol, n.servePerf)
	if o.mdns {
		if err := n.discover(o.mdnsDials); err != nil {
			return nil, err
		}
	}
	return n, n.watch()
}

// roleOf is what a relay serves and what a peer believes of itself. Without --reachability a peer takes itself for
// private, or go would not punch before AutoNAT has spoken, and asks no server: its dials would disturb who measures.
func (n *node) roleOf(o *options) []libp2p.Option {
	var role []libp2p.Option
	n.asksOften = o.role == "relay" || o.reachability == "auto"
	if n.asksOften {
		role = append(role, libp2p.EnableAutoNATv2())
	}
	if o.role == "relay" {
		role = append(role, libp2p.EnableNATService(),
			libp2p.EnableRelayService(relay.WithResources(relay.DefaultResources())),
			// An AutoNAT server of go dials by UDP only once its host has, 100 times and 5 of them with success.
			libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.IPv6BlackHoleSuccessCounter(nil))
	}
	switch {
	case o.role == "relay" || o.reachability == "public":
		role = append(role, libp2p.ForceReachabilityPublic())
	case o.reachability != "auto":
		role = append(role, libp2p.ForceReachabilityPrivate())
	}
	return role
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == module {
				return strings.TrimPrefix(dependency.Version, "v")
			}
		}
	}
	return "unknown"
}

func (n *node) announce() {
	n.out.event("ready", fields{"peer": n.host.ID().String(), "addrs": n.full(n.host.Addrs()), "agent": n.agent})
	for _, addr := range n.host.Network().ListenAddresses() {
		n.out.event("listening", fields{"addr": n.with(addr)})
	}
}

func (n *node) close() {
	if err := n.host.Close(); err != nil {
		n.out.complain("closing: %v", err)
	}
}

// advertise adds the circuits to what go would say by itself.
func (n *node) advertise(addrs []ma.Multiaddr) []ma.Multiaddr {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return append(addrs, n.circuits...)
}

// watch tells of what identify and AutoNAT have learnt.
func (n *node) watch() error {
	bus, err := n.host.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtLocalReachabilityChanged),
		new(event.EvtHostReachableAddrsChanged),
	})
	if err != nil {
		return err
	}
	go func() {
		for each := range bus.Out() {
			switch told := each.(type) {
			case event.EvtPeerIdentificationCompleted:
				n.identified(told)
			case event.EvtLocalReachabilityChanged:
				n.reachabilityIs(told.Reachability)
			case event.EvtHostReachableAddrsChanged:
				n.addrsReached(told)
			}
		}
	}()
	return nil
}

func (n *node) identified(e event.EvtPeerIdentificationCompleted) {
	about := fields{
		"peer": e.Peer.String(), "path": path(e.Conn), "agent": e.AgentVersion,
		"protocols": protocol.ConvertToStrings(e.Protocols), "addrs": texts(e.ListenAddrs),
	}
	if e.ObservedAddr != nil {
		seen := e.ObservedAddr.String()
		about["observed"] = seen
		n.mutex.Lock()
		_, known := n.observed[seen]
		fresh := !known && path(e.Conn) == direct && len(n.observed) < maxAtOnce
		if fresh {
			n.observed[seen] = time.Now()
		}
		n.mutex.Unlock()
		if fresh {
			n.out.event("observed", fields{"addr": seen, "by": e.Peer.String()})
		}
	}
	n.out.event("identified", about)
}

func (n *node) connected(_ network.Network, c network.Conn) {
	n.mutex.Lock()
	n.since[c.ID()] = time.Now()
	n.mutex.Unlock()
	n.out.event("connected", n.connection(c))
}

func (n *node) disconnected(_ network.Network, c network.Conn) {
	n.mutex.Lock()
	delete(n.since, c.ID())
	n.mutex.Unlock()
	remote := c.RemoteMultiaddr().String()
	n.out.event("disconnected", fields{"peer": c.RemotePeer().String(), "path": path(c), "remote": remote, "why": "closed"})
}

// connection is what `dial`, `connections` and the event `connected` tell of one.
func (n *node) connection(c network.Conn) fields {
	state := c.ConnState()
	security, muxer, transport := string(state.Security), string(state.StreamMultiplexer), state.Transport
	switch transport { // the contract's names
	case "quic-v1":
		transport, security, muxer = "quic", "/tls/1.0.0", "quic"
	case "websocket":
		transport = "ws"
	}
	return fields{
		"peer": c.RemotePeer().String(), "path": path(c), "direction": strings.ToLower(c.Stat().Direction.String()),
		"local": c.LocalMultiaddr().String(), "remote": c.RemoteMultiaddr().String(),
		"transport": transport, "security": security, "muxer": muxer,
	}
}

func path(c network.Conn) string {
	if _, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT); err == nil {
		return relayed
	}
	return direct
}

func (n *node) with(addr ma.Multiaddr) string { return addr.String() + "/p2p/" + n.host.ID().String() }

func (n *node) full(addrs []ma.Multiaddr) []string {
	made := make([]string, 0, len(addrs))
	for _, addr := range addrs {
		made = append(made, n.with(addr))
	}
	return made
}

func texts(addrs []ma.Multiaddr) []string {
	made := make([]string, 0, len(addrs))
	for _, addr := range addrs {
		made = append(made, addr.String())
	}
	return made
}

// Trace makes the contract's `punch` events of go's own; go's attempts are counted where the addresses are known.
func (n *node) Trace(e *holepunch.Event) {
	about := fields{"peer": e.Remote.String()}
	switch told := e.Evt.(type) {
	case *holepunch.DirectDialEvt:
		about["stage"], about["attempt"] = "direct-dial", 0
		if told.Success {
			n.out.event("punch", about)
			about = fields{"peer": e.Remote.String(), "stage": "succeeded", "attempt": 0}
		} else {
			about["why"] = told.Error
		}
	case *holepunch.StartHolePunchEvt:
		about["stage"], about["addrs"], about["rtt"] = "started", told.RemoteAddrs, told.RTT.Seconds()
		about["attempt"] = n.attempts(e.Remote, false) + 1
	case *holepunch.HolePunchAttemptEvt:
		about["stage"], about["attempt"] = "dialling", n.attempts(e.Remote, true)
	case *holepunch.EndHolePunchEvt:
		about["attempt"] = n.attempts(e.Remote, false)
		if about["stage"] = "succeeded"; !told.Success {
			about["stage"], about["why"] = "failed", told.Error
		}
	case *holepunch.ProtocolErrorEvt:
		about["stage"], about["why"], about["attempt"] = "failed", told.Error, n.attempts(e.Remote, false)
		n.out.event("punch", about)
		about = fields{"peer": e.Remote.String(), "stage": "gave-up", "why": told.Error, "attempt": about["attempt"]}
	}
	n.out.event("punch", about)
	if about["stage"] == "failed" && n.attempts(e.Remote, false) >= goAttempts {
		n.out.event("punch", fields{"peer": e.Remote.String(), "stage": "gave-up", "attempt": goAttempts})
	}
}

// goAttempts is how often go-libp2p punches before it gives up.
const goAttempts = 3

var (
	attemptsMutex sync.Mutex
	attemptsOf    = map[peer.ID]int{} // of the peers of one lab
)

func (n *node) attempts(of peer.ID, more bool) int {
	attemptsMutex.Lock()
	defer attemptsMutex.Unlock()
	if more {
		attemptsOf[of]++
	}
	return attemptsOf[of]
}
