// The lines of the peer contract (docs/contract.md): commands come on stdin, answers and events go to stdout.

import { createInterface } from 'node:readline'

const MAX_AT_ONCE = 256
const MAX_LINE = 1 << 20
const DEFAULT_TIMEOUT = 30
const MAX_TIMEOUT = 3600

/** An error with the contract's word for its kind. */
export class Refusal extends Error {
  constructor (kind, why) {
    super(why)
    this.kind = kind
  }
}

const print = (line) => process.stdout.write(`${JSON.stringify(line)}\n`)

/** Prints an event; fields that are undefined are left out. */
export const event = (name, fields = {}) => print({ event: name, at: Date.now() / 1000, ...fields })

export const complain = (why) => event('complaint', { why })

/** All reasons of an error in one line; a failed dial has one for each address. */
export function reasons (error) {
  const parts = error.errors?.length > 0 ? error.errors.map(reasons) : [error.message || error.name || String(error)]
  return parts.join('; ').replaceAll('\n', ' ')
}

const timedOut = (error) => ['TimeoutError', 'AbortError'].includes(error.name)

const kindOf = (error) => error.kind ?? (timedOut(error) ? 'timeout' : 'refused')

/** Runs commands side by side until stdin ends or `stop` comes. */
export async function serve (commands, input) {
  const running = new Set()
  let number = 0
  for await (const line of createInterface({ input })) {
    const request = parse(line, ++number)
    if (request?.do === 'stop') {
      if (Number.isInteger(request.id)) print({ id: request.id, ok: {} })
      break
    }
    if (request == null) continue
    if (running.size >= MAX_AT_ONCE) {
      print({ id: request.id, error: 'limit', why: `${MAX_AT_ONCE} commands are under way already` })
      continue
    }
    const task = answer(commands, request).finally(() => running.delete(task))
    running.add(task)
  }
}

function parse (line, number) {
  if (line.length > MAX_LINE) return complain(`line ${number}: longer than ${MAX_LINE} characters`)
  let request
  try {
    request = JSON.parse(line)
  } catch (error) {
    return complain(`line ${number}: not JSON: ${error.message}`)
  }
  if (request?.do !== 'stop' && !Number.isInteger(request?.id)) return complain(`line ${number}: no integer in \`id\``)
  return request
}

async function answer (commands, request) {
  const { id, timeout = DEFAULT_TIMEOUT } = request
  const run = Object.hasOwn(commands, request.do) ? commands[request.do] : undefined
  if (run === undefined) {
    print({ id, unsupported: String(request.do) })
    return
  }
  try {
    if (!(timeout > 0 && timeout <= MAX_TIMEOUT)) {
      throw new Refusal('bad-argument', `\`timeout\` must be up to ${MAX_TIMEOUT} seconds`)
    }
    print({ id, ok: await run(request, AbortSignal.timeout(timeout * 1000)) })
  } catch (error) {
    print({ id, error: kindOf(error), why: reasons(error) })
  }
}
