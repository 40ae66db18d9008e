// DCUtR with the contract's `punch` events. js-libp2p tells of its attempts in its log alone, so what is told here is
// where a punch began and how it ended.

import { dcutr } from '@libp2p/dcutr'
import { event } from './lines.mjs'
import { isRelayed } from './node.mjs'

export const DCUTR = '/libp2p/dcutr'
const ATTEMPTS = 3
/** Milliseconds for a dialer to begin to serve DCUtR: go does once it knows its address, which it looks for every 5 s. */
const PATIENCE = 10_000
const UNKNOWN = 'js-libp2p does not say why'
/** The connections on which js-libp2p has begun to punch, and those on which it may never do. */
const begun = new WeakSet()
const doubtful = new WeakSet()

/** The service; `direct` answers whether a peer is connected to directly. */
export const punching = (direct) => (components) => {
  const service = dcutr({ retries: ATTEMPTS })(components)
  const told = (method, tell) => {
    const original = service[method].bind(service)
    service[method] = (...args) => tell(original, ...args)
  }
  told('upgradeInbound', async (original, connection) => {
    const about = { peer: connection.remotePeer.toString(), role: 'initiator' }
    event('punch', { stage: 'started', attempt: 0, ...about })
    begun.add(connection)
    try {
      await original(connection)
    } finally {
      conclude(about, direct(connection.remotePeer), UNKNOWN)
    }
  })
  told('handleIncomingUpgrade', async (original, stream, connection) => {
    const about = { peer: connection.remotePeer.toString(), role: 'responder' }
    event('punch', { stage: 'connect-received', attempt: 1, ...about })
    try {
      await original(stream, connection)
    } catch (error) {
      event('punch', { stage: 'failed', attempt: 1, why: error.message, ...about })
      throw error
    }
  })
  return service
}

function conclude (about, succeeded, why) {
  if (succeeded) {
    event('punch', { stage: 'succeeded', attempt: 1, ...about })
  } else {
    event('punch', { stage: 'failed', attempt: ATTEMPTS, why, ...about })
    event('punch', { stage: 'gave-up', attempt: ATTEMPTS, why, ...about })
  }
}

/** Nobody punches where the dialer does not serve DCUtR; the contract wants an end of it all the same. */
export function noteUnpunchable ({ connection, protocols }) {
  if (!isRelayed(connection) || connection.direction !== 'inbound' || protocols.includes(DCUTR)) return
  if (doubtful.has(connection)) return
  doubtful.add(connection)
  setTimeout(() => {
    if (begun.has(connection) || connection.status !== 'open') return
    conclude({ peer: connection.remotePeer.toString() }, false, `the peer does not serve ${DCUTR}`)
  }, PATIENCE).unref()
}
