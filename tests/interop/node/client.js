// Makes the calls that it reads as JSON, one a line, and prints the outcome of each.
//
// Access tokens are requested by openid-client and sent by the call credentials of grpc-js. The messages are built
// from the descriptor set that `gatehouse protos` writes, so there is no generated code.

import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import * as grpc from '@grpc/grpc-js'
import * as protos from '@grpc/proto-loader'
import * as oauth from 'openid-client'

const { values: flags } = parseArgs({
  options: { ca: { type: 'string' }, protoset: { type: 'string' }, issuer: { type: 'string' } },
})
const definitions = protos.loadFileDescriptorSetFromBuffer(readFileSync(flags.protoset), {
  longs: String,
  enums: String,
  bytes: String,
})
const ssl = grpc.credentials.createSsl(readFileSync(flags.ca))

/** Returns a function that supplies the access token of a call, or undefined for none. */
function tokens({ client, token }) {
  if (token) return async () => token
  if (!client) return undefined
  return async () => {
    const registered = await oauth.discovery(
      new URL(flags.issuer),
      client.id,
      undefined,
      oauth.ClientSecretBasic(client.secret),
      { execute: [oauth.allowInsecureRequests] }, // the development issuer has no TLS
    )
    return (await oauth.clientCredentialsGrant(registered, { scope: client.scope })).access_token
  }
}

/** Returns call credentials that send the token that `supply` resolves to. */
function bearer(supply) {
  return grpc.credentials.createFromMetadataGenerator((_, done) => {
    supply().then((token) => {
      const metadata = new grpc.Metadata()
      metadata.set('authorization', `Bearer ${token}`)
      done(null, metadata)
    }, done)
  })
}

/** Returns the error details (AIP-193) in the trailers of a call. */
function details(trailers) {
  const [status] = trailers.get('grpc-status-details-bin')
  if (!status) return []
  return definitions['google.rpc.Status'].deserialize(status).details.map((any) => {
    const type = any.type_url.split('/').pop()
    const value = definitions[type].deserialize(Buffer.from(any.value, 'base64'))
    return { type, value }
  })
}

/**
 * Makes a call. Its fields are described in tests/interop/foreign.py.
 *
 * A bidirectional stream waits for the response to each request before it sends the next.
 */
async function call(one) {
  const [service, name] = one.method.slice(1).split('/')
  const Client = grpc.makeGenericClientConstructor(definitions[service], service)
  const supply = tokens(one)
  const credentials = supply ? grpc.credentials.combineChannelCredentials(ssl, bearer(supply)) : ssl
  const { gzip, identity } = grpc.compressionAlgorithms
  const stub = new Client(one.target, credentials, {
    'grpc.default_compression_algorithm': one.gzip ? gzip : identity,
  })
  const { requestStream, responseStream } = definitions[service][name]
  const requests = [...(one.requests ?? [])]
  const responses = []
  let full = false
  let status = { code: grpc.status.OK, details: '', metadata: new grpc.Metadata() }
  await new Promise((ended) => {
    const keep = (error, response) => error || responses.push(response)
    const stream = stub[name](
      ...(requestStream ? [] : [requests.shift()]),
      new grpc.Metadata(),
      { deadline: Date.now() + one.timeout * 1000 },
      ...(responseStream ? [] : [keep]),
    )
    const send = () => {
      if (requests.length) stream.write(requests.shift())
      else if (!one.keeps_open) stream.end()
    }
    stream.on('error', () => {}) // `status` reports it too
    stream.on('status', (found) => {
      if (!full) status = found // else it is our own cancellation
      if (!responseStream) ended()
    })
    stream.on('end', ended)
    stream.on('data', (response) => {
      responses.push(response)
      full = responses.length === one.limit
      if (full) {
        ended()
        stream.cancel() // closing the channel would wait for it
      } else if (requestStream) send()
    })
    const first = responseStream ? 1 : requests.length + 1
    for (let number = 0; requestStream && number < first; number++) send()
  })
  stub.close()
  const { code, details: message, metadata } = status
  return { code, message, details: details(metadata), challenge: metadata.get('www-authenticate'), responses }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await call(JSON.parse(line))))
}
