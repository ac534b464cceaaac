import assert from 'node:assert/strict'
import { after, afterEach, before, beforeEach, test } from 'node:test'
import { status } from '@grpc/grpc-js'
import { LoginRequired, UserClient } from './client.js'
import { startTestbed } from './testbed.js'

const GET_USER = 'gatehouse.users.v1.UserService/GetUser'
let testbed, client

before(async () => {
  testbed = await startTestbed()
})
after(() => testbed?.stop())

beforeEach(async () => {
  await testbed.reset()
  const token = await testbed.token({ user: 'alice' })
  client = new UserClient(testbed.targets.users, testbed.authority, 'gatehouse.protoset', token)
})
afterEach(() => client.close())

test('client retries while the service is unavailable', async () => {
  await testbed.addFault(GET_USER, { code: 'UNAVAILABLE', times: 2 })
  assert.equal((await client.getUser(testbed.users.bob)).email, 'bob@example.test')
  const codes = (await testbed.calls('GetUser')).map((call) => call.code)
  assert.deepEqual(codes, ['UNAVAILABLE', 'UNAVAILABLE', 'OK'])
})

test('client gives up after three attempts', async () => {
  await testbed.addFault(GET_USER, { code: 'UNAVAILABLE' })
  await assert.rejects(client.getUser(testbed.users.bob), { code: status.UNAVAILABLE })
  assert.equal((await testbed.calls('GetUser')).length, 3)
})

test('client asks for a login when its token expires', async () => {
  await client.getUser(testbed.users.bob)
  await testbed.advanceClock(24 * 60 * 60)
  await assert.rejects(client.getUser(testbed.users.bob), LoginRequired)
})
