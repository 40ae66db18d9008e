// A js-libp2p node that speaks the peer contract (docs/contract.md): JSON lines on stdin and stdout, logs on stderr.

import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { event, serve } from './lines.mjs'
import { Node } from './node.mjs'

const BAD_USAGE = 2
const SECURITIES = ['noise', 'tls']
const MUXERS = ['yamux']
const HELD_BACK = /\/quic|\/webrtc|\/webtransport/

function some (flag, text, known) {
  const chosen = text.split(',')
  const strange = chosen.find((each) => !known.includes(each))
  if (strange !== undefined) throw new Error(`${flag}: no "${strange}" here; there are: ${known.join(', ')}`)
  return chosen
}

function parseOptions (args) {
  const { values } = parseArgs({
    args,
    options: {
      name: { type: 'string', default: 'node' },
      role: { type: 'string', default: 'peer' },
      listen: { type: 'string', multiple: true, default: ['/ip4/0.0.0.0/tcp/4001'] },
      state: { type: 'string' },
      security: { type: 'string', default: 'noise,tls' },
      muxer: { type: 'string', default: 'yamux' }
    }
  })
  if (!['peer', 'relay'].includes(values.role)) throw new Error(`--role: "${values.role}" is neither peer nor relay`)
  some('--muxer', values.muxer, MUXERS)
  const strange = values.listen.find((addr) => HELD_BACK.test(addr))
  if (strange !== undefined) throw new Error(`--listen: ${strange}: this peer has tcp and ws alone`)
  return { ...values, security: some('--security', values.security, SECURITIES) }
}

async function main () {
  const about = JSON.parse(await readFile(new URL('./package.json', import.meta.url), 'utf8'))
  const node = await Node.start({ ...parseOptions(process.argv.slice(2)), version: about.dependencies.libp2p })
  const end = () => process.stdin.destroy()
  process.once('SIGTERM', end).once('SIGINT', end)
  node.announce()
  await serve(node.commands(), process.stdin)
  await node.stop()
  event('stopped')
}

main().then(() => process.exit(0), (error) => {
  console.error(`js-libp2p peer: ${error.message}`)
  process.exit(BAD_USAGE)
})
