// The js-libp2p node behind the contract's commands.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { webSockets } from '@libp2p/websockets'
import { CODE_P2P, multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { event, reasons, Refusal } from './lines.mjs'
import { noteUnpunchable, punching } from './punching.mjs'
import { ECHO, ECHO_MOST, exchange, measure, PERF, PERF_MOST, PING, roundTrip, serveEcho, servePerf } from './streams.mjs'

export const IMPLEMENTATION = 'js-libp2p'
const KEPT_KEY = 'identity.key'
const MAX_OBSERVED = 256
/** Pings under way at a time: by its own limit of one, js-libp2p would refuse ours while its monitor of connections pings. */
const PINGS = 16
const STREAMS = { maxInboundStreams: 256, maxOutboundStreams: 256, runOnLimitedConnection: true }
const CIRCUIT = '/p2p-circuit'

export const isRelayed = (connection) => connection.remoteAddr.toString().includes(CIRCUIT)

const path = (connection) => isRelayed(connection) ? 'relayed' : 'direct'

function transport (connection) {
  const addr = connection.remoteAddr.toString()
  if (addr.includes(CIRCUIT)) return 'relay'
  if (addr.includes('/ws')) return addr.includes('/wss') || addr.includes('/tls') ? 'wss' : 'ws'
  return 'tcp'
}

/** What `dial`, `connections` and the event `connected` tell; js-libp2p keeps the local address to itself. */
const about = (connection) => ({
  peer: connection.remotePeer.toString(),
  path: path(connection),
  direction: connection.direction,
  remote: connection.remoteAddr.toString(),
  transport: transport(connection),
  security: connection.encryption,
  muxer: connection.multiplexer
})

/** The key that an earlier start has left in the folder, or a new one that is left there. */
async function identity (state) {
  const file = join(state ?? '', KEPT_KEY)
  if (state !== undefined) {
    try {
      return privateKeyFromProtobuf(await readFile(file))
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
  }
  const key = await generateKeyPair('Ed25519')
  if (state !== undefined) await writeFile(file, privateKeyToProtobuf(key), { mode: 0o600 })
  return key
}

function parsed (read, name, text) {
  try {
    return read(text)
  } catch (error) {
    throw new Refusal('bad-argument', `\`${name}\`: ${error.message}`)
  }
}

function sized (request, name, most) {
  const value = request[name] ?? 0
  if (!(Number.isInteger(value) && value >= 0 && value <= most)) {
    throw new Refusal('bad-argument', `\`${name}\` must be from 0 to ${most}`)
  }
  return value
}

function target (request) {
  const addr = parsed(multiaddr, 'addr', request.addr)
  const last = addr.getComponents().at(-1)
  if (last?.name !== 'p2p') throw new Refusal('bad-argument', '`addr` must end with /p2p/ and the peer')
  return [addr, peerIdFromString(last.value)]
}

const known = (request) => parsed(peerIdFromString, 'peer', request.peer)

function dialError (error, signal) {
  if (signal.aborted) return new Refusal('timeout', reasons(error))
  const all = [error, ...(error.errors ?? [])].map((each) => each.name)
  return new Refusal(all.includes('UnexpectedPeerError') ? 'wrong-peer' : 'dial-failed', reasons(error))
}

export class Node {
  #libp2p
  #internals
  #observed = new Set()

  /** @param {{ role: string, listen: string[], state?: string, security: string[], version: string }} options */
  static async start (options) {
    const node = new Node()
    const securities = { noise: noise(), tls: tls() }
    node.version = options.version
    node.agent = `${IMPLEMENTATION}/${options.version}`
    node.#libp2p = await createLibp2p({
      privateKey: await identity(options.state),
      nodeInfo: { name: IMPLEMENTATION, version: options.version, userAgent: node.agent },
      addresses: { listen: options.listen },
      // A lab's addresses are not to be judged by where they would lie in the real internet.
      connectionGater: { denyDialMultiaddr: () => false },
      transports: [tcp(), webSockets(), circuitRelayTransport()],
      connectionEncrypters: options.security.map((name) => securities[name]),
      streamMuxers: [yamux()],
      services: {
        identify: identify({ runOnLimitedConnection: true }),
        identifyPush: identifyPush({ runOnLimitedConnection: true }),
        ping: ping({ maxOutboundStreams: PINGS }),
        punching: punching((peer) => node.#best(peer, 'direct') !== undefined),
        internals: (components) => { node.#internals = components; return {} },
        ...(options.role === 'relay' && { relay: circuitRelayServer() })
      },
      start: false
    })
    node.#watch()
    await node.#libp2p.handle(ECHO, serveEcho, STREAMS)
    await node.#libp2p.handle(PERF, servePerf, STREAMS)
    await node.#libp2p.start()
    return node
  }

  stop () {
    return this.#libp2p.stop()
  }

  announce () {
    event('ready', { peer: this.#libp2p.peerId.toString(), addrs: this.#addrs(), agent: this.agent })
    for (const addr of this.#addrs()) event('listening', { addr })
  }

  /** The contract's commands by name. */
  commands () {
    const names = ['info', 'dial', 'reserve', 'echo', 'ping', 'connections', 'disconnect', 'perf', 'protocols']
    return Object.fromEntries(names.map((name) => [name, this[name].bind(this)]))
  }

  async info () {
    return {
      peer: this.#libp2p.peerId.toString(),
      addrs: this.#addrs(),
      observed: [...this.#observed].sort(),
      agent: this.agent,
      version: this.version,
      implementation: IMPLEMENTATION,
      protocols: this.#libp2p.getProtocols()
    }
  }

  async dial (request, signal) {
    const [addr, peer] = target(request)
    // Without force a relayed connection would be taken for the direct one that is asked for.
    const force = !request.addr.includes(CIRCUIT) && this.#best(peer, 'direct') === undefined
    const made = await this.#libp2p.dial(addr, { signal, force }).catch((error) => { throw dialError(error, signal) })
    const rtt = await this.#roundTrip(peer, signal)
    return { ...about(this.#best(peer, 'direct') ?? made), rtt }
  }

  async reserve (request, signal) {
    const [addr, relay] = target(request)
    await this.#libp2p.dial(addr, { signal }).catch((error) => { throw dialError(error, signal) })
    await this.#internals.transportManager.listen([multiaddr(`${addr}${CIRCUIT}`)])
    const circuits = this.#internals.transportManager.getTransports().find((each) => each.reservationStore !== undefined)
    const held = circuits.reservationStore.getReservation(relay)
    if (held === undefined) throw new Refusal('refused', `${relay} has granted no slot`)
    const reserved = {
      relay: relay.toString(),
      expire: Number(held.expire),
      addrs: held.addrs.map((bytes) => `${multiaddr(bytes)}${CIRCUIT}/p2p/${this.#libp2p.peerId}`)
    }
    event('reserved', reserved)
    return { ...reserved, limit: null, voucher: held.voucher !== undefined }
  }

  async echo (request, signal) {
    const peer = known(request)
    const bytes = sized(request, 'bytes', ECHO_MOST)
    const [connection, stream] = await this.#open(peer, request.protocol ?? ECHO, signal)
    const began = performance.now()
    await exchange(stream, bytes, signal)
    const seconds = (performance.now() - began) / 1000
    const { path, remote } = about(connection)
    return { path, bytes, seconds, remote, rtt: await this.#roundTrip(peer, signal) }
  }

  async ping (request, signal) {
    const peer = known(request)
    const rtt = await this.#roundTrip(peer, signal)
    return { rtt, path: path(this.#connected(peer)) }
  }

  async connections () {
    const connections = this.#libp2p.getConnections()
    return { connections: connections.map((each) => ({ ...about(each), since: each.timeline.open / 1000 })) }
  }

  async disconnect (request, signal) {
    const peer = known(request)
    const closed = this.#libp2p.getConnections(peer).length
    await this.#libp2p.hangUp(peer, { signal })
    return { closed }
  }

  async perf (request, signal) {
    const peer = known(request)
    const upload = sized(request, 'upload', PERF_MOST)
    const download = sized(request, 'download', PERF_MOST)
    const [connection, stream] = await this.#open(peer, PERF, signal)
    return { ...await measure(stream, upload, download, signal), path: path(connection) }
  }

  async protocols (request) {
    const peer = known(request)
    this.#connected(peer)
    return { protocols: [...(await this.#libp2p.peerStore.get(peer)).protocols].sort() }
  }

  #addrs () {
    const own = `/p2p/${this.#libp2p.peerId}`
    return this.#libp2p.getMultiaddrs().map(String).map((addr) => addr.endsWith(own) ? addr : `${addr}${own}`)
  }

  /** An open connection with that path, or the direct one before a relayed one. */
  #best (peer, wanted) {
    const open = this.#libp2p.getConnections(peer).filter((each) => each.status === 'open')
    const direct = open.find((each) => !isRelayed(each))
    return direct ?? (wanted === 'direct' ? undefined : open[0])
  }

  #connected (peer) {
    const connection = this.#best(peer)
    if (connection === undefined) throw new Refusal('closed', `there is no connection to ${peer}`)
    return connection
  }

  async #open (peer, protocol, signal) {
    const connection = this.#connected(peer)
    return [connection, await connection.newStream(protocol, { signal, runOnLimitedConnection: true })]
  }

  async #roundTrip (peer, signal) {
    // The ping of js-libp2p would dial anew where the only connection is a relayed one.
    const [, stream] = await this.#open(peer, PING, signal)
    return await roundTrip(stream, signal)
  }

  #watch () {
    const on = (name, tell) => this.#libp2p.addEventListener(name, ({ detail }) => tell(detail))
    on('connection:open', (connection) => event('connected', about(connection)))
    on('connection:close', (connection) => {
      const { peer, path, remote } = about(connection)
      event('disconnected', { peer, path, remote, why: 'closed' })
    })
    on('peer:identify', (result) => {
      this.#identified(result)
      noteUnpunchable(result)
    })
  }

  #identified ({ peerId, connection, agentVersion, protocols, listenAddrs, observedAddr }) {
    // Who does not know where we are may say so by an address of no parts.
    const told = observedAddr?.decapsulateCode(CODE_P2P).toString()
    const observed = told === '/' ? undefined : told
    const fresh = observed !== undefined && !isRelayed(connection) && !this.#observed.has(observed)
    if (fresh && this.#observed.size < MAX_OBSERVED) {
      this.#observed.add(observed)
      // A lab may hold one peer that can observe us; js would wait for several to dial back.
      this.#internals.addressManager.confirmObservedAddr(multiaddr(observed), { type: 'observed' })
      event('observed', { addr: observed, by: peerId.toString() })
    }
    event('identified', {
      peer: peerId.toString(), path: path(connection), agent: agentVersion, protocols,
      addrs: listenAddrs.map(String), observed
    })
  }
}
