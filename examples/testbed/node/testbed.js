// Starts `gatehouse testbed` and controls it.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/** Starts a test bed, which ends with its standard input: also if this process is killed. */
export async function startTestbed() {
  // Node warns about certificates that are checked against an IP address.
  const child = spawn('gatehouse', ['testbed', '--name', 'localhost'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(child, 'close')
  const [line] = await Promise.race([
    once(createInterface(child.stdout), 'line'),
    ended.then(([code]) => {
      throw new Error(`gatehouse testbed has ended with ${code}`)
    }),
  ])
  return new Testbed(JSON.parse(line), async () => {
    child.stdin.end()
    await ended
  })
}

/** A running test bed; `description` is what it prints: addresses, certificates and secrets. */
class Testbed {
  constructor(description, stop) {
    this.issuer = description.issuer
    this.clients = description.clients
    this.targets = description.targets
    this.users = description.users
    this.authority = description.ca_certificate
    this.stop = stop
    this.#url = description.control_url
  }

  #url

  async #send(method, path, body) {
    const response = await fetch(this.#url + path, {
      method,
      headers: { 'content-type': 'application/json' },
      body: body && JSON.stringify(body),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return text && JSON.parse(text)
  }

  /** Returns a new access token, such as `{ user: 'alice', name: 'expired' }`. */
  async token(content) {
    return (await this.#send('POST', '/tokens', content)).token
  }

  async addFault(target, effects) {
    await this.#send('POST', '/faults', { target, ...effects })
  }

  async advanceClock(seconds) {
    await this.#send('POST', '/clock', { seconds })
  }

  /** Returns the calls of an RPC that the services received, oldest first. */
  async calls(method) {
    return this.#send('GET', `/calls?method=${method}`)
  }

  async reset() {
    await this.#send('POST', '/reset')
  }
}
