//! The swarm, what is asked of it, and what it tells.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, autonat, dcutr, identify, identity, mdns, multiaddr::Protocol, noise, ping, relay,
    swarm::{
        ConnectionId, DialError, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, tls, yamux,
};
use libp2p::core::{ConnectedPoint, transport::ListenerId};
use libp2p_stream::Control;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::sleep,
};

use crate::{
    asking::Asking,
    lines::{self, Answer, MAX_LINE, Refusal, Request, UNSUPPORTED, event},
    options::{Options, Security},
    streams,
};

const IMPLEMENTATION: &str = "rust-libp2p";
/// Of the crate, which Cargo.toml pins.
const VERSION: &str = "0.57.1";
/// How long a relayed connection is kept beside a direct one: what is under way on it may end.
const GRACE: Duration = Duration::from_millis(500);
const AT_ONCE: usize = 256;
/// How often it is looked whether the relayed connection has gone, or the relay has identified itself.
const LOOK: Duration = Duration::from_millis(50);
/// How long a relay may take to identify itself before it is dialled through all the same.
const IDENTIFIED_WITHIN: Duration = Duration::from_secs(5);
/// How often one ping is tried, on other connections.
const PINGS: usize = 3;
const FOREVER: Duration = Duration::from_secs(24 * 3600);

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    relay_client: relay::client::Behaviour,
    relay: Toggle<relay::Behaviour>,
    dcutr: Toggle<dcutr::Behaviour>,
    autonat_client: Toggle<Asking>,
    autonat_server: Toggle<autonat::v2::server::Behaviour>,
    mdns: Toggle<mdns::tokio::Behaviour>,
    stream: libp2p_stream::Behaviour,
}

/// What only the loop that owns the swarm can do.
enum Order {
    Info(oneshot::Sender<Answer>),
    Connections(oneshot::Sender<Answer>),
    Protocols(PeerId, oneshot::Sender<Answer>),
    Disconnect(PeerId, oneshot::Sender<Answer>),
    Dial(PeerId, Multiaddr, oneshot::Sender<Answer>),
    Reserve(PeerId, Multiaddr, oneshot::Sender<Answer>),
    Best(PeerId, oneshot::Sender<Answer>),
    Autonat(PeerId, Multiaddr, oneshot::Sender<Answer>),
    CloseRelayed(PeerId),
}

struct Known {
    peer: PeerId,
    point: ConnectedPoint,
    since: f64,
}

struct Node {
    swarm: Swarm<Behaviour>,
    options: Options,
    connections: HashMap<ConnectionId, Known>,
    dials: HashMap<ConnectionId, oneshot::Sender<Answer>>,
    reservations: HashMap<ListenerId, (PeerId, Multiaddr, oneshot::Sender<Answer>)>,
    /// Whose connections are ending, how many they were, and who wants to know.
    closing: HashMap<PeerId, (usize, oneshot::Sender<Answer>)>,
    tests: HashMap<Multiaddr, oneshot::Sender<Answer>>,
    tested: HashSet<Multiaddr>,
    /// Peers to whom a punch is under way that began with their relayed connection.
    punching: HashSet<PeerId>,
    discovered: HashSet<PeerId>,
    served: HashMap<PeerId, Vec<String>>,
    observed: Vec<Multiaddr>,
    silent: usize,
    later: mpsc::Sender<Order>,
}

pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let key = options.identity()?;
    let mut swarm = build(key, &options).await?;
    let mut control = swarm.behaviour().stream.new_control();
    streams::serve(&mut control)?;
    for addr in &options.listen {
        swarm.listen_on(addr.clone())?;
    }
    let (orders, mut asked) = mpsc::channel(AT_ONCE);
    let silent = options.listen.len();
    let mut node = Node {
        swarm,
        options,
        connections: HashMap::new(),
        dials: HashMap::new(),
        reservations: HashMap::new(),
        closing: HashMap::new(),
        tests: HashMap::new(),
        tested: HashSet::new(),
        punching: HashSet::new(),
        discovered: HashSet::new(),
        served: HashMap::new(),
        observed: Vec::new(),
        silent,
        later: orders.clone(),
    };
    while node.silent > 0 {
        let happened = node.swarm.select_next_some().await;
        node.happened(happened)?;
    }
    node.announce();
    let (ended, mut end) = oneshot::channel();
    tokio::spawn(read(orders, control, ended));
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            happened = node.swarm.select_next_some() => node.happened(happened)?,
            Some(order) = asked.recv() => node.obey(order),
            _ = &mut end => break,
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
        }
    }
    event("stopped", json!({}));
    // Reading stdin blocks a thread of the runtime, which would be waited for.
    std::process::exit(0)
}

async fn build(key: identity::Keypair, options: &Options) -> Result<Swarm<Behaviour>, Box<dyn Error>> {
    macro_rules! secured {
        ($security:expr) => {
            SwarmBuilder::with_existing_identity(key)
                .with_tokio()
                .with_tcp(tcp::Config::default().nodelay(true), $security, yamux::Config::default)?
                .with_quic()
                .with_dns()?
                .with_websocket($security, yamux::Config::default)
                .await?
                .with_relay_client($security, yamux::Config::default)?
                .with_behaviour(|key, client| Ok(behaviour(key, client, options)?))?
                .with_swarm_config(|config| config.with_idle_connection_timeout(FOREVER))
                .build()
        };
    }
    Ok(match options.security.as_slice() {
        [Security::Noise] => secured!(noise::Config::new),
        [Security::Tls] => secured!(tls::Config::new),
        [Security::Tls, ..] => secured!((tls::Config::new, noise::Config::new)),
        _ => secured!((noise::Config::new, tls::Config::new)),
    })
}

fn behaviour(
    key: &identity::Keypair,
    relay_client: relay::client::Behaviour,
    options: &Options,
) -> std::io::Result<Behaviour> {
    let own = key.public().to_peer_id();
    let mdns = options.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), own)).transpose()?;
    let about = identify::Config::new("ipfs/0.1.0".into(), key.public()).with_agent_version(agent());
    Ok(Behaviour {
        identify: identify::Behaviour::new(about),
        ping: ping::Behaviour::default(),
        relay_client,
        relay: Toggle::from(options.relay.then(|| relay::Behaviour::new(own, relay::Config::default()))),
        dcutr: Toggle::from((!options.relay).then(|| dcutr::Behaviour::new(own))),
        autonat_client: Toggle::from((!options.relay).then(|| Asking::new(options.asks))),
        autonat_server: Toggle::from(options.relay.then(autonat::v2::server::Behaviour::default)),
        mdns: Toggle::from(mdns),
        stream: libp2p_stream::Behaviour::new(),
    })
}

fn agent() -> String {
    format!("{IMPLEMENTATION}/{VERSION}")
}

impl Node {
    fn own(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    fn addrs(&self) -> Vec<String> {
        let all = self.swarm.listeners().chain(self.swarm.external_addresses());
        let mut full: Vec<_> = all.map(|addr| self.full(addr)).collect();
        full.sort();
        full.dedup();
        full
    }

    fn full(&self, addr: &Multiaddr) -> String {
        addr.clone().with_p2p(self.own()).unwrap_or_else(|addr| addr).to_string()
    }

    fn announce(&self) {
        event("ready", json!({"peer": self.own().to_string(), "addrs": self.addrs(), "agent": agent()}));
        for addr in self.swarm.listeners() {
            event("listening", json!({"addr": self.full(addr)}));
        }
    }

    // ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────

    fn obey(&mut self, order: Order) {
        // Whoever asked may have given up waiting; then nobody takes the answer.
        match order {
            Order::Info(to) => drop(to.send(Ok(self.info()))),
            Order::Connections(to) => {
                let all: Vec<_> = self.connections.values().map(|known| self.about(known, true)).collect();
                drop(to.send(Ok(json!({"connections": all}))));
            }
            Order::Protocols(peer, to) => {
                let served = self.served.get(&peer).cloned().unwrap_or_default();
                drop(to.send(Ok(json!({"protocols": served}))));
            }
            Order::Disconnect(peer, to) => {
                let closed = self.connections.values().filter(|known| known.peer == peer).count();
                if self.swarm.disconnect_peer_id(peer).is_err() {
                    drop(to.send(Ok(json!({"closed": 0}))));
                } else {
                    // Answered when they have ended: who dials again at once would be given one of them.
                    self.closing.insert(peer, (closed, to));
                }
            }
            Order::Dial(peer, addr, to) => self.dial(peer, addr, to),
            Order::Reserve(relay, addr, to) => self.reserve(relay, addr, to),
            Order::Best(peer, to) => drop(to.send(match self.best(peer) {
                Some(_) if self.is_between(peer) => Ok(Value::Null),
                Some(known) => Ok(self.about(known, false)),
                None => Err(Refusal::new("closed", format!("there is no connection to {peer}"))),
            })),
            Order::Autonat(server, addr, to) => self.autonat(server, addr, to),
            Order::CloseRelayed(peer) => self.close_relayed(peer),
        }
    }

    fn info(&self) -> Value {
        let observed: Vec<_> = self.observed.iter().map(ToString::to_string).collect();
        json!({
            "peer": self.own().to_string(), "addrs": self.addrs(), "observed": observed, "agent": agent(),
            "version": VERSION, "implementation": IMPLEMENTATION, "protocols": self.protocols(),
        })
    }

    /// What the behaviours serve; the swarm itself does not tell.
    fn protocols(&self) -> Vec<&'static str> {
        let common = ["/echo/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", "/perf/1.0.0"];
        let own: &[&str] = if self.options.relay {
            &["/libp2p/circuit/relay/0.2.0/hop", "/libp2p/autonat/2/dial-request"]
        } else {
            &["/libp2p/dcutr", "/libp2p/autonat/2/dial-back"]
        };
        [&common[..], &["/libp2p/circuit/relay/0.2.0/stop"], own].concat()
    }

    fn best(&self, peer: PeerId) -> Option<&Known> {
        let mine = self.connections.values().filter(|known| known.peer == peer);
        mine.min_by_key(|known| known.point.is_relayed())
    }

    /// Whether a peer has both kinds of connections: then a stream would run over either, as chance has it.
    fn is_between(&self, peer: PeerId) -> bool {
        let relayed = |wanted| self.connections.values().any(|k| k.peer == peer && k.point.is_relayed() == wanted);
        relayed(true) && relayed(false)
    }

    /// Have an AutoNAT server test an address; rust-libp2p chooses the server, and tests an address once.
    fn autonat(&mut self, server: PeerId, addr: Multiaddr, to: oneshot::Sender<Answer>) {
        let refuse = |to: oneshot::Sender<Answer>, kind, why: &str| drop(to.send(Err(Refusal::new(kind, why))));
        if self.best(server).is_none() {
            return refuse(to, "closed", "there is no connection to this server");
        }
        if self.tested.len() >= AT_ONCE || !self.tested.insert(addr.clone()) {
            return refuse(to, "refused", "rust-libp2p tests an address once");
        }
        match self.swarm.behaviour_mut().autonat_client.as_mut() {
            Some(client) => client.test(&addr),
            None => return refuse(to, UNSUPPORTED, "autonat, of a relay"),
        }
        self.tests.insert(addr, to);
    }

    fn dial(&mut self, peer: PeerId, addr: Multiaddr, to: oneshot::Sender<Answer>) {
        let relayed = addr.iter().any(|part| part == Protocol::P2pCircuit);
        if let Some(known) = self.best(peer).filter(|known| relayed || !known.point.is_relayed()) {
            drop(to.send(Ok(self.about(known, false))));
            return;
        }
        let options = DialOpts::peer_id(peer).addresses(vec![addr]).condition(PeerCondition::Always).build();
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dials.insert(id, to)),
            Err(error) => drop(to.send(Err(dial_error(&error)))),
        }
    }

    fn reserve(&mut self, relay: PeerId, addr: Multiaddr, to: oneshot::Sender<Answer>) {
        let circuit = addr.with_p2p(relay).unwrap_or_else(|addr| addr).with(Protocol::P2pCircuit);
        match self.swarm.listen_on(circuit.clone()) {
            Ok(id) => drop(self.reservations.insert(id, (relay, circuit, to))),
            Err(error) => drop(to.send(Err(Refusal::new("bad-argument", error)))),
        }
    }

    fn close_relayed(&mut self, peer: PeerId) {
        let relayed = |known: &&Known| known.peer == peer && known.point.is_relayed();
        if self.best(peer).is_some_and(|best| !best.point.is_relayed()) {
            let ids: Vec<_> = self.connections.iter().filter(|(_, known)| relayed(known)).map(|(id, _)| *id).collect();
            for id in ids {
                self.swarm.close_connection(id);
            }
        }
    }

    // ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────

    fn happened(&mut self, happened: SwarmEvent<BehaviourEvent>) -> Result<(), Box<dyn Error>> {
        match happened {
            SwarmEvent::NewListenAddr { address, .. } => {
                self.silent = self.silent.saturating_sub(1);
                if self.options.relay {
                    self.swarm.add_external_address(address);
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some((_, _, to)) = self.reservations.remove(&listener_id) {
                    let why = reason.err().map_or("closed".into(), |error| lines::whole(&error));
                    drop(to.send(Err(Refusal::new("refused", why))));
                } else if let Err(error) = reason {
                    return Err(format!("cannot listen: {error}").into());
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(peer_id, connection_id, endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, endpoint, cause, .. } => {
                self.connections.remove(&connection_id);
                if self.best(peer_id).is_none() && let Some((closed, to)) = self.closing.remove(&peer_id) {
                    drop(to.send(Ok(json!({"closed": closed}))));
                }
                let why = cause.map_or("closed".into(), |error| lines::whole(&error));
                let (path, remote) = (path(&endpoint), remote(&endpoint));
                event("disconnected", json!({"peer": peer_id.to_string(), "path": path, "remote": remote, "why": why}));
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(to) = self.dials.remove(&connection_id) {
                    drop(to.send(Err(dial_error(&error))));
                }
            }
            SwarmEvent::Behaviour(told) => self.told(told),
            _ => {}
        }
        Ok(())
    }

    fn connected(&mut self, peer: PeerId, id: ConnectionId, point: ConnectedPoint) {
        let direct = !point.is_relayed();
        let was_relayed = self.best(peer).is_some_and(|known| known.point.is_relayed());
        let known = Known { peer, point, since: lines::now() };
        let about = self.about(&known, false);
        event("connected", about.clone());
        if let Some(to) = self.dials.remove(&id) {
            drop(to.send(Ok(about)));
        }
        if direct && self.punching.remove(&peer) {
            // rust-libp2p does not take a connection from another port than it was told of for its punch's success.
            event("punch", json!({"stage": "succeeded", "peer": peer.to_string(), "attempt": 0}));
        }
        if !direct && known.point.is_listener() && self.punching.len() < AT_ONCE {
            self.punching.insert(peer);
            event("punch", json!({"stage": "started", "peer": peer.to_string(), "attempt": 0, "role": "responder"}));
        }
        self.connections.insert(id, known);
        if direct && was_relayed {
            let later = self.later.clone();
            tokio::spawn(async move {
                sleep(GRACE).await;
                if later.send(Order::CloseRelayed(peer)).await.is_err() {
                    eprintln!("the node has ended");
                }
            });
        }
    }

    fn told(&mut self, told: BehaviourEvent) {
        match told {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.identified(peer_id, connection_id, info);
            }
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted { relay_peer_id, limit, .. }) => {
                let limit = limit.map(|limit| {
                    json!({"duration": limit.duration().map_or(0, |d| d.as_secs()), "data": limit.data_in_bytes().unwrap_or(0)})
                });
                self.reserved(relay_peer_id, limit);
            }
            BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id, result }) => {
                let (peer, ours) = (remote_peer_id.to_string(), self.punching.remove(&remote_peer_id));
                match result {
                    Err(error) if ours => {
                        event("punch", json!({"stage": "gave-up", "peer": peer, "attempt": 0, "why": lines::whole(&error)}));
                    }
                    Err(error) => {
                        event("punch", json!({"stage": "failed", "peer": peer, "attempt": 0, "why": lines::whole(&error)}));
                    }
                    Ok(_) => {} // told when the connection came
                }
            }
            BehaviourEvent::AutonatClient(tested) => self.tested(&tested),
            BehaviourEvent::AutonatServer(tested) => event("dialled-back", json!({
                "peer": tested.client.to_string(), "addr": tested.tested_addr.to_string(),
                "reachable": tested.result.is_ok(), "paid": tested.data_amount,
            })),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.discovered(found),
            BehaviourEvent::Relay(relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id }) => {
                let (source, target) = (src_peer_id.to_string(), dst_peer_id.to_string());
                event("circuit", json!({"stage": "opened", "source": source, "target": target}));
            }
            BehaviourEvent::Relay(relay::Event::CircuitClosed { src_peer_id, dst_peer_id, error }) => {
                let (source, target) = (src_peer_id.to_string(), dst_peer_id.to_string());
                let why = error.map(|error| error.to_string());
                event("circuit", json!({"stage": "closed", "source": source, "target": target, "why": why}));
            }
            _ => {}
        }
    }

    fn tested(&mut self, found: &autonat::v2::client::Event) {
        let (addr, reachable) = (found.tested_addr.to_string(), found.result.is_ok());
        match self.tests.remove(&found.tested_addr) {
            Some(to) => drop(to.send(Ok(json!({"addr": addr, "reachable": reachable, "paid": found.bytes_sent})))),
            None => {
                let verdict = if reachable { "public" } else { "private" };
                event("reachability", json!({"reachability": verdict, "addrs": {addr: verdict}}));
            }
        }
    }

    fn discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) {
        let mut by_peer: HashMap<PeerId, Vec<Multiaddr>> = HashMap::new();
        for (peer, addr) in found {
            by_peer.entry(peer).or_default().push(addr);
        }
        for (peer, addrs) in by_peer {
            if self.discovered.len() >= AT_ONCE || !self.discovered.insert(peer) {
                continue;
            }
            let texts: Vec<_> = addrs.iter().map(ToString::to_string).collect();
            event("discovered", json!({"peer": peer.to_string(), "addrs": texts, "by": "mdns"}));
            if self.options.mdns_dials && self.best(peer).is_none() {
                if let Err(error) = self.swarm.dial(DialOpts::peer_id(peer).addresses(addrs).build()) {
                    event("complaint", json!({"why": format!("{peer}, found by mDNS: {error}")}));
                }
            }
        }
    }

    fn identified(&mut self, peer: PeerId, id: ConnectionId, info: identify::Info) {
        let protocols: Vec<_> = info.protocols.iter().map(ToString::to_string).collect();
        let addrs: Vec<_> = info.listen_addrs.iter().map(ToString::to_string).collect();
        let known = self.connections.get(&id).map(|known| path(&known.point));
        let observed = info.observed_addr.to_string();
        if known == Some("direct") && !self.observed.contains(&info.observed_addr) && self.observed.len() < AT_ONCE {
            self.observed.push(info.observed_addr);
            event("observed", json!({"addr": observed, "by": peer.to_string()}));
        }
        event("identified", json!({
            "peer": peer.to_string(), "path": known, "agent": info.agent_version, "protocols": protocols,
            "addrs": addrs, "observed": observed,
        }));
        self.served.insert(peer, protocols);
    }

    fn reserved(&mut self, relay: PeerId, limit: Option<Value>) {
        let Some(id) = self.reservations.iter().find(|(_, (of, _, _))| *of == relay).map(|(id, _)| *id) else {
            return; // renewed
        };
        let Some((_, circuit, to)) = self.reservations.remove(&id) else { return };
        // When the slot ends is between the client and its relay: rust-libp2p renews it and does not say.
        let told = json!({"relay": relay.to_string(), "expire": 0.0, "addrs": [self.full(&circuit)]});
        event("reserved", told.clone());
        let mut answer = told;
        answer["limit"] = limit.into();
        answer["voucher"] = false.into();
        drop(to.send(Ok(answer)));
    }

    /// What `dial`, `connections` and the event `connected` tell; rust-libp2p does not say which security it agreed on,
    /// nor from where it dialled.
    fn about(&self, known: &Known, since: bool) -> Value {
        let remote = remote(&known.point);
        let quic = !known.point.is_relayed() && remote.contains("/quic-v1");
        let names: Vec<_> = self.options.security.iter().map(|security| security.protocol()).collect();
        let local = match &known.point {
            ConnectedPoint::Listener { local_addr, .. } => local_addr.to_string(),
            ConnectedPoint::Dialer { .. } => String::new(),
        };
        let transport = match () {
            () if known.point.is_relayed() => "relay",
            () if quic => "quic",
            () if remote.contains("/ws") => "ws",
            () => "tcp",
        };
        let mut about = json!({
            "peer": known.peer.to_string(), "path": path(&known.point), "remote": remote, "local": local,
            "direction": if known.point.is_dialer() { "outbound" } else { "inbound" },
            "transport": transport,
            "security": if quic { "/tls/1.0.0".into() } else { names.join(" or ") },
            "muxer": if quic { "quic" } else { "/yamux/1.0.0" },
        });
        if since {
            about["since"] = known.since.into();
        }
        about
    }
}

fn path(point: &ConnectedPoint) -> &'static str {
    if point.is_relayed() { "relayed" } else { "direct" }
}

fn remote(point: &ConnectedPoint) -> String {
    point.get_remote_address().to_string()
}

fn dial_error(error: &DialError) -> Refusal {
    let kind = match error {
        DialError::WrongPeerId { .. } => "wrong-peer",
        _ => "dial-failed",
    };
    Refusal::new(kind, error)
}

// ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/// Read commands until stdin ends or `stop` comes, and run them side by side.
async fn read(orders: mpsc::Sender<Order>, control: Control, ended: oneshot::Sender<()>) {
    let mut input = BufReader::new(tokio::io::stdin());
    let mut line = Vec::new();
    let began = Instant::now();
    loop {
        line.clear();
        match (&mut input).take(MAX_LINE as u64).read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Err(error) => {
                eprintln!("stdin, after {:?}: {error}", began.elapsed());
                break;
            }
            Ok(_) => {}
        }
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                event("complaint", json!({"why": format!("not a command: {error}")}));
                continue;
            }
        };
        match request.id {
            id if request.what == "stop" => {
                if let Some(id) = id {
                    lines::answer(id, Ok(json!({})));
                }
                break;
            }
            None => event("complaint", json!({"why": "no integer in `id`"})),
            Some(id) => drop(tokio::spawn(execute(id, request, orders.clone(), control.clone()))),
        }
    }
    if ended.send(()).is_err() {
        eprintln!("the node has ended before stdin");
    }
}

async fn execute(id: i64, request: Request, orders: mpsc::Sender<Order>, control: Control) {
    const KNOWN: [&str; 10] =
        ["info", "dial", "reserve", "echo", "ping", "connections", "disconnect", "perf", "protocols", "autonat"];
    if !KNOWN.contains(&request.what.as_str()) {
        lines::answer(id, Err(Refusal::new(UNSUPPORTED, &request.what)));
        return;
    }
    let outcome = match request.timeout() {
        Err(refusal) => Err(refusal),
        Ok(timeout) => match tokio::time::timeout(timeout, perform(&request, orders, control)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refusal::new("timeout", format!("not done within {timeout:?}"))),
        },
    };
    lines::answer(id, outcome);
}

async fn perform(request: &Request, orders: mpsc::Sender<Order>, mut control: Control) -> Answer {
    match request.what.as_str() {
        "info" => ask(&orders, Order::Info).await,
        "connections" => ask(&orders, Order::Connections).await,
        "dial" => {
            let (peer, addr) = target(request)?;
            meet_relay(&orders, &addr).await?;
            let mut made = ask(&orders, |to| Order::Dial(peer, addr, to)).await?;
            made["rtt"] = round_trip(&orders, &mut control, peer).await?.into();
            Ok(made)
        }
        "autonat" => autonat(request, &orders).await,
        "reserve" => {
            let (relay, addr) = target(request)?;
            ask(&orders, |to| Order::Reserve(relay, addr, to)).await
        }
        _ => perform_with(request, peer(request)?, orders, control).await,
    }
}

/// Connect to the relay that the address leads through, and give it time to tell at which address it sees this node:
/// libp2p-dcutr offers what it knew when the relayed connection came to be, and nothing later.
async fn meet_relay(orders: &mpsc::Sender<Order>, addr: &Multiaddr) -> Result<(), Refusal> {
    let mut relay: Multiaddr = addr.iter().take_while(|part| *part != Protocol::P2pCircuit).collect();
    if relay.len() == addr.len() {
        return Ok(());
    }
    let Some(Protocol::P2p(peer)) = relay.pop() else { return Ok(()) };
    ask(orders, |to| Order::Dial(peer, relay, to)).await?;
    let told = async {
        while ask(orders, |to| Order::Protocols(peer, to)).await?["protocols"] == json!([]) {
            sleep(LOOK).await;
        }
        Ok(())
    };
    tokio::time::timeout(IDENTIFIED_WITHIN, told).await.unwrap_or(Ok(()))
}

/// What is done with a peer that there is a connection to.
async fn perform_with(request: &Request, peer: PeerId, orders: mpsc::Sender<Order>, mut control: Control) -> Answer {
    match request.what.as_str() {
        "protocols" => return ask(&orders, |to| Order::Protocols(peer, to)).await,
        "disconnect" => return ask(&orders, |to| Order::Disconnect(peer, to)).await,
        _ => {}
    }
    let best = settled(&orders, peer).await?;
    let path = best["path"].clone();
    match request.what.as_str() {
        "ping" => Ok(json!({"rtt": round_trip(&orders, &mut control, peer).await?, "path": path})),
        "echo" => {
            let size = within("bytes", request.bytes, streams::ECHO_MOST)?;
            let seconds = streams::echo(&mut control, peer, protocol(request)?, size).await?.as_secs_f64();
            let rtt = round_trip(&orders, &mut control, peer).await?;
            Ok(json!({"path": path, "bytes": size, "seconds": seconds, "remote": best["remote"], "rtt": rtt}))
        }
        _ => {
            let upload = within("upload", request.upload, streams::PERF_MOST)?;
            let download = within("download", request.download, streams::PERF_MOST)?;
            let (up, down) = streams::perf(&mut control, peer, upload, download).await?;
            Ok(json!({"upload_seconds": up, "download_seconds": down, "path": path}))
        }
    }
}

/// The best connection, once there are not both kinds of them: libp2p-stream takes any.
async fn settled(orders: &mpsc::Sender<Order>, peer: PeerId) -> Answer {
    loop {
        match ask(orders, |to| Order::Best(peer, to)).await? {
            Value::Null => sleep(LOOK).await,
            best => return Ok(best),
        }
    }
}

/// One ping; again where its connection gave way to a better one, or its stream to that of the behaviour's own ping: of those
/// that one connection has, rust-libp2p serves the newest and drops the others.
async fn round_trip(orders: &mpsc::Sender<Order>, control: &mut Control, peer: PeerId) -> Result<f64, Refusal> {
    for _ in 1..PINGS {
        settled(orders, peer).await?;
        if let Ok(rtt) = streams::ping(control, peer).await {
            return Ok(rtt);
        }
    }
    settled(orders, peer).await?;
    streams::ping(control, peer).await
}

async fn autonat(request: &Request, orders: &mpsc::Sender<Order>) -> Answer {
    let server = peer(request)?;
    if request.version.unwrap_or(2) != 2 {
        return Err(Refusal::new(UNSUPPORTED, "autonat of version 1"));
    }
    let addr = match request.addrs.first() {
        Some(addr) => addr.clone(),
        None => {
            let info = ask(orders, Order::Info).await?;
            let observed = info["observed"].get(0).and_then(Value::as_str).map(str::to_owned);
            observed.ok_or_else(|| Refusal::new("refused", "nobody has told us an address of ours yet"))?
        }
    };
    let addr = addr.parse().map_err(|error| Refusal::new("bad-argument", format!("`addrs`: {error}")))?;
    ask(orders, |to| Order::Autonat(server, addr, to)).await
}

async fn ask(orders: &mpsc::Sender<Order>, order: impl FnOnce(oneshot::Sender<Answer>) -> Order) -> Answer {
    let (to, answer) = oneshot::channel();
    let gone = || Refusal::new("closed", "the node is stopping");
    orders.send(order(to)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn target(request: &Request) -> Result<(PeerId, Multiaddr), Refusal> {
    let bad = |why: String| Refusal::new("bad-argument", format!("`addr`: {why}"));
    let mut addr: Multiaddr = request.addr.parse().map_err(|error| bad(format!("{error}")))?;
    match addr.pop() {
        Some(Protocol::P2p(peer)) => Ok((peer, addr)),
        _ => Err(bad(format!("{} does not end in /p2p/<peer id>", request.addr))),
    }
}

fn peer(request: &Request) -> Result<PeerId, Refusal> {
    request.peer.parse().map_err(|error| Refusal::new("bad-argument", format!("`peer`: {error}")))
}

fn protocol(request: &Request) -> Result<libp2p::StreamProtocol, Refusal> {
    match &request.protocol {
        None => Ok(streams::ECHO),
        Some(name) => libp2p::StreamProtocol::try_from_owned(name.clone())
            .map_err(|error| Refusal::new("bad-argument", format!("`protocol`: {error}"))),
    }
}

fn within(name: &str, value: u64, most: u64) -> Result<u64, Refusal> {
    if value <= most { Ok(value) } else { Err(Refusal::new("bad-argument", format!("`{name}` must be up to {most}"))) }
}
