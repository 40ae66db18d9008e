//! AutoNAT's client, kept from asking by itself: without `--reachability auto` only what a command names is tested.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::client::{Behaviour, Config, Event},
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};
use rand::rngs::StdRng;

/// How often the client looks whether there is something to test; its default is five seconds.
const LOOK: Duration = Duration::from_millis(250);

pub struct Asking {
    inner: Behaviour<StdRng>,
    by_itself: bool,
}

impl Asking {
    pub fn new(by_itself: bool) -> Self {
        let config = if by_itself { Config::default() } else { Config::default().with_probe_interval(LOOK) };
        Asking { inner: Behaviour::new(rand::make_rng::<StdRng>(), config), by_itself }
    }

    /// Have a server test this address, unless one has before.
    pub fn test(&mut self, addr: &Multiaddr) {
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }));
    }
}

impl NetworkBehaviour for Asking {
    type ConnectionHandler = <Behaviour<StdRng> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if self.by_itself || !matches!(event, FromSwarm::NewExternalAddrCandidate(_)) {
            self.inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.inner.poll(context)
    }
}
