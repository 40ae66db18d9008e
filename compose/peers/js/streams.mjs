// The echo and perf protocols, both sides.

import { randomBytes } from 'node:crypto'
import { Refusal } from './lines.mjs'

export const ECHO = '/echo/1.0.0'
export const ECHO_MOST = 2 ** 30
export const PERF = '/perf/1.0.0'
export const PERF_MOST = 2 ** 34
export const PING = '/ipfs/ping/1.0.0'
const PING_BYTES = 32
const BLOCK = 64 * 1024
const ZEROS = new Uint8Array(BLOCK)

async function write (stream, data, signal) {
  if (!stream.send(data)) await stream.onDrain({ signal })
}

async function pour (stream, bytes, signal) {
  for (let left = bytes; left > 0; left -= BLOCK) {
    await write(stream, ZEROS.subarray(0, Math.min(left, BLOCK)), signal)
  }
}

/** Runs `work` on a stream that is reset when the time is up or the work fails. */
async function within (stream, signal, work) {
  const expire = () => stream.abort(signal.reason)
  signal.addEventListener('abort', expire)
  try {
    return await work()
  } catch (error) {
    stream.abort(error)
    signal.throwIfAborted()
    throw error instanceof Refusal ? error : new Refusal('reset', error.message)
  } finally {
    signal.removeEventListener('abort', expire)
  }
}

/** Sends random bytes in blocks and compares what comes back while it sends. */
export const exchange = (stream, bytes, signal) => within(stream, signal, async () => {
  const sent = []
  const send = async () => {
    for (let left = bytes; left > 0; left -= BLOCK) {
      const block = randomBytes(Math.min(left, BLOCK))
      sent.push(block)
      await write(stream, block, signal)
    }
    await stream.close({ signal })
  }
  const compare = async () => {
    let back = 0
    for await (const chunk of stream) {
      back += chunk.byteLength
      for (let data = chunk.subarray(); data.length > 0;) {
        const expected = sent[0]
        const size = Math.min(data.length, expected?.length ?? 0)
        if (size === 0 || Buffer.compare(data.subarray(0, size), expected.subarray(0, size)) !== 0) {
          throw new Refusal('reset', 'the echo differs from what was sent')
        }
        data = data.subarray(size)
        if (size === expected.length) sent.shift()
        else sent[0] = expected.subarray(size)
      }
    }
    if (back !== bytes) throw new Refusal('reset', `${back} bytes came back instead of ${bytes}`)
  }
  await Promise.all([send(), compare()])
})

/** Measures one ping in seconds. */
export const roundTrip = (stream, signal) => within(stream, signal, async () => {
  const sent = randomBytes(PING_BYTES)
  const began = performance.now()
  await write(stream, sent, signal)
  const back = []
  for await (const chunk of stream) {
    back.push(...chunk.subarray())
    if (back.length >= PING_BYTES) break
  }
  const seconds = (performance.now() - began) / 1000
  if (Buffer.compare(Buffer.from(back), sent) !== 0) throw new Refusal('reset', 'the ping came back changed')
  await stream.close({ signal })
  return seconds
})

export async function serveEcho (stream) {
  try {
    for await (const chunk of stream) await write(stream, chunk)
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}

/** Measures one upload and one download in seconds; the first byte back says that the upload has arrived. */
export const measure = (stream, upload, download, signal) => within(stream, signal, async () => {
  const began = performance.now()
  const head = new Uint8Array(8)
  new DataView(head.buffer).setBigUint64(0, BigInt(download))
  await write(stream, head, signal)
  await pour(stream, upload, signal)
  await stream.close({ signal })
  let uploaded
  let got = 0
  for await (const chunk of stream) {
    uploaded ??= performance.now()
    got += chunk.byteLength
  }
  if (got !== download) throw new Refusal('reset', `${got} bytes came instead of ${download}`)
  const ended = performance.now()
  uploaded ??= ended
  return { upload_seconds: (uploaded - began) / 1000, download_seconds: (ended - uploaded) / 1000 }
})

export async function servePerf (stream) {
  try {
    const head = new Uint8Array(8)
    let got = 0
    for await (const chunk of stream) {
      if (got < head.length) head.set(chunk.subarray(0, Math.min(chunk.byteLength, head.length - got)), got)
      got += chunk.byteLength
    }
    const wanted = Number(new DataView(head.buffer).getBigUint64(0))
    if (got >= head.length && wanted <= PERF_MOST) await pour(stream, wanted)
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}
