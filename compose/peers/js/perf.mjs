// js-libp2p running /perf/1.0.0 over TCP, Noise and yamux.
//
//   perf.mjs listen                         prints its address, answers until its stdin ends
//   perf.mjs dial ADDR UPLOAD DOWNLOAD N    prints N lines {"upload_seconds": …, "download_seconds": …}

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PROTOCOL = '/perf/1.0.0'
const BLOCK = new Uint8Array(64 * 1024)

const make = (listen) => createLibp2p({
  addresses: { listen },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()]
})

async function send (stream, bytes) {
  while (bytes > 0) {
    const size = Math.min(bytes, BLOCK.length)
    if (!stream.send(BLOCK.subarray(0, size))) {
      await stream.onDrain()
    }
    bytes -= size
  }
}

async function serve (stream) {
  const head = new Uint8Array(8)
  let got = 0
  for await (const chunk of stream) {
    const bytes = chunk.subarray()
    if (got < 8) {
      head.set(bytes.subarray(0, 8 - got), got)
    }
    got += bytes.length
  }
  await send(stream, Number(new DataView(head.buffer).getBigUint64(0)))
  await stream.close()
}

async function measure (connection, upload, download) {
  const stream = await connection.newStream(PROTOCOL)
  const began = performance.now()
  const head = new Uint8Array(8)
  new DataView(head.buffer).setBigUint64(0, BigInt(download))
  stream.send(head)
  await send(stream, upload)
  await stream.close()
  let uploaded
  for await (const _ of stream) {
    uploaded ??= performance.now()
  }
  const ended = performance.now()
  uploaded ??= ended
  return { upload_seconds: (uploaded - began) / 1000, download_seconds: (ended - uploaded) / 1000 }
}

const [verb, address, upload, download, rounds] = process.argv.slice(2)
if (verb === 'listen') {
  const node = await make(['/ip4/127.0.0.1/tcp/0'])
  await node.handle(PROTOCOL, serve)
  console.log(node.getMultiaddrs()[0].toString())
  process.stdin.on('end', () => process.exit(0)).resume()
} else {
  const node = await make([])
  const connection = await node.dial(multiaddr(address))
  for (let i = 0; i < Number(rounds); i++) {
    console.log(JSON.stringify(await measure(connection, Number(upload), Number(download))))
  }
  process.exit(0)
}
