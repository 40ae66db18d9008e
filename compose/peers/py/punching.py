"""DCUtR with the contract's `punch` events."""

import trio
from libp2p.relay.circuit_v2 import DCUtRProtocol
from libp2p.relay.circuit_v2.dcutr import MAX_HOLE_PUNCH_ATTEMPTS
from lines import event

DIAL_WITHIN = 5
"Seconds for one round of dials, of which an attempt has several."
ATTEMPT_WITHIN = 15
"Seconds for one attempt; left alone, three of them take longer than a minute."
UNKNOWN = "py-libp2p does not say why"


class Punching(DCUtRProtocol):
    """Tells of the attempts; that a direct connection has come of one is for who watches the connections to tell."""

    def __init__(self, host):
        super().__init__(host, dial_timeout=DIAL_WITHIN)

    async def initiate_hole_punch(self, peer_id):
        if peer_id in self._in_progress or await self._have_direct_connection(peer_id):
            return await super().initiate_hole_punch(peer_id)
        about = {"peer": peer_id.to_base58(), "role": "initiator"}
        event("punch", stage="started", attempt=self._hole_punch_attempts.get(peer_id, 0) + 1, **about)
        succeeded = False
        with trio.move_on_after(ATTEMPT_WITHIN):
            succeeded = await super().initiate_hole_punch(peer_id)
        if not succeeded:
            attempt = self._hole_punch_attempts.get(peer_id, 0)
            event("punch", stage="failed", attempt=attempt, why=UNKNOWN, **about)
            if attempt >= MAX_HOLE_PUNCH_ATTEMPTS:
                event("punch", stage="gave-up", attempt=attempt, why=UNKNOWN, **about)
        return succeeded
