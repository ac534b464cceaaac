// A small client of UserService.

import { readFileSync } from 'node:fs'
import * as grpc from '@grpc/grpc-js'
import { loadFileDescriptorSetFromBuffer } from '@grpc/proto-loader'

/** The access token is not accepted; get a new one. */
export class LoginRequired extends Error {}

// gRPC tries a call again while the service is unavailable, three times in all.
const retries = {
  methodConfig: [
    {
      name: [{ service: 'gatehouse.users.v1.UserService' }],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: '0.01s',
        maxBackoff: '0.1s',
        backoffMultiplier: 2,
        retryableStatusCodes: ['UNAVAILABLE'],
      },
    },
  ],
}

export class UserClient {
  #stub
  #token

  /**
   * @param {string} target Address of UserService.
   * @param {string} authority PEM of the authority that verifies its certificate.
   * @param {string} protoset The file that `gatehouse protos` writes.
   * @param {string} token Access token.
   */
  constructor(target, authority, protoset, token) {
    const definitions = loadFileDescriptorSetFromBuffer(readFileSync(protoset), { keepCase: true })
    const { UserService } = grpc.loadPackageDefinition(definitions).gatehouse.users.v1
    this.#stub = new UserService(target, grpc.credentials.createSsl(Buffer.from(authority)), {
      'grpc.service_config': JSON.stringify(retries),
    })
    this.#token = token
  }

  close() {
    this.#stub.close()
  }

  /** Returns a user; throws LoginRequired if the access token is not accepted. */
  getUser(userId) {
    const metadata = new grpc.Metadata()
    metadata.set('authorization', `Bearer ${this.#token}`)
    const deadline = Date.now() + 5000
    return new Promise((resolve, reject) => {
      this.#stub.GetUser({ user_id: userId }, metadata, { deadline }, (error, user) => {
        if (error?.code === grpc.status.UNAUTHENTICATED) reject(new LoginRequired())
        else if (error) reject(error)
        else resolve(user)
      })
    })
  }
}
