// What libp2p 3 needs and Node.js has from version 22 on: Promise.withResolvers, and WebSocket.
import WebSocket from 'ws'

Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((a, b) => { resolve = a; reject = b })
  return { promise, resolve, reject }
}

// A browser hands over messages in tasks of their own; `ws` in the one in which the connection opened, before libp2p
// listens to them, if the other side speaks first.
class Patient extends WebSocket {
  constructor (...args) {
    super(...args)
    this.once('open', () => {
      this.pause()
      setImmediate(() => this.resume())
    })
  }
}

globalThis.WebSocket ??= Patient
