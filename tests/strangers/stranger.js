// node.js reads tasks from standard input, one a line, and prints each result. `tasks.py` describes the format.
// node.js verifies a path inside a TLS handshake alone. So a path is checked by a handshake with a server in this process.

'use strict'
const crypto = require('crypto')
const fs = require('fs')
const https = require('https')
const readline = require('readline')
const tls = require('tls')

const CLIENT = '1.3.6.1.5.5.7.3.2'
const names = (text) => (text === '' ? [] : text.split(','))
const read = (name) => fs.readFileSync(name, 'utf8')
const lists = (files) => (files.length ? files.map((name) => read(name + '.pem')) : undefined)

const work = {
  parse: async (file) => {
    new crypto.X509Certificate(fs.readFileSync(file))
    return ''
  },
  path: async (purpose, root, leaf, cas, crls, key) => {
    if (key === '') throw new Error('node.js checks a path in a handshake, and this certificate has no key here')
    const subject = { cert: [leaf, ...names(cas)].map(read).join(''), key: read(key) }
    const verifier = { ca: read(root), crl: lists(names(crls)) }
    if (purpose !== CLIENT) return handshake(subject, verifier)
    const server = { cert: read('service.pem') + read('services-1.pem'), key: read('service.key'), ...verifier }
    return handshake({ ...server, requestCert: true, rejectUnauthorized: false }, { ...subject, ca: read(root) })
  },
  ocsp: async () => {
    throw new Error('node.js has no OCSP client: ' + Object.keys({ ...crypto, ...tls }).filter((name) => /ocsp/i.test(name)))
  },
  tls: (port, root, chain, key, crls) =>
    new Promise((resolve, reject) => {
      const own = chain === '' ? {} : { cert: names(chain).map(read).join(''), key: read(key) }
      const options = { host: '127.0.0.1', port, path: '/.well-known/est/simplereenroll', method: 'POST', agent: false }
      const request = https.request({ ...options, ca: read(root), crl: lists(names(crls)), ...own }, (answer) => {
        answer.resume()
        answer.on('end', () => resolve('HTTP ' + answer.statusCode))
      })
      request.on('error', reject)
      request.end()
    })
}

// The server sends a byte after it has verified the client. So the client's byte means that both sides accepted.
function handshake(serverOptions, clientOptions) {
  return new Promise((resolve, reject) => {
    let client
    const end = (settle, value) => {
      server.close()
      if (client) client.destroy()
      settle(value)
    }
    // The server does not refuse by itself, because its event for refusals has no reason.
    const server = tls.createServer(serverOptions, (socket) => {
      socket.on('error', () => {})
      if (serverOptions.requestCert && !socket.authorized) end(reject, new Error(socket.authorizationError))
      else socket.end('.')
    })
    server.listen(0, '127.0.0.1', () => {
      client = tls.connect({ host: '127.0.0.1', port: server.address().port, ...clientOptions })
      client.on('data', () => end(resolve, ''))
      client.on('error', (error) => end(reject, error))
    })
  })
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [id, kind, ...rest] = line.split('\t')
    let said
    try {
      said = 'accepted\t' + (await work[kind](...rest))
    } catch (error) {
      said = 'refused\t' + [error.code, error.message].filter(Boolean).join(': ')
    }
    console.log(id + '\t' + said.replace(/\n/g, ' '))
  }
}
main()
