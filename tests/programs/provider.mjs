// A real OpenID provider (npm: oidc-provider) for the tests of tokens: node provider.mjs MODULES PORT
//
// Says `ready` when it listens. POST /test/rotate gives it new keys, /test/skew?seconds=N sets its clock wrong, /test/down makes it answer
// everything with 503 and /test/up ends that; GET /test/counts tells how often its keys were asked for, and tokens looked up.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';

// Standard output is for `ready` alone.
console.log = console.info = console.warn = console.error;
const [modules, port] = process.argv.slice(2);
const { default: Provider } = await import(`${modules}/oidc-provider/lib/index.js`);
const issuer = `http://127.0.0.1:${port}`;
const now = Date.now;
let skew = 0;
Date.now = () => now() + skew * 1000;

function key(type, options, number, alg) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: `${alg}-${number}`, use: 'sig', alg };
}

const client = (client_id, client_secret, grant_types) => ({
  client_id, client_secret, grant_types, redirect_uris: [], response_types: [],
});

function provider(number) {
  const made = new Provider(issuer, {
    clients: [client('job', 'job-secret', ['client_credentials']), client('gate', 'gate-secret-planted', ['client_credentials'])],
    jwks: { keys: [key('rsa', { modulusLength: 2048 }, number, 'RS256'), key('ec', { namedCurve: 'P-256' }, number, 'ES256')] },
    scopes: ['orders.read', 'orders.write'],
    ttl: { ClientCredentials: 600 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource) => ({
          audience: resource.replace(/\/(rs|es)$/, ''),
          scope: 'orders.read orders.write',
          accessTokenFormat: 'jwt',
          accessTokenTTL: 600,
          jwt: { sign: { alg: resource.endsWith('/es') ? 'ES256' : 'RS256' } },
        }),
      },
    },
  });
  return made.callback();
}

let number = 1;
let answer = provider(number);
let down = false;
const counts = { keys: 0, lookups: 0, descriptions: 0 };
createServer((request, response) => {
  const url = new URL(request.url, issuer);
  switch (url.pathname) {
    case '/test/rotate': number += 1; answer = provider(number); return response.end();
    case '/test/skew': skew = Number(url.searchParams.get('seconds')); return response.end();
    case '/test/down': down = true; return response.end();
    case '/test/up': down = false; return response.end();
    case '/test/counts': return response.end(JSON.stringify(counts));
    case '/jwks': counts.keys += 1; break;
    case '/token/introspection': counts.lookups += 1; break;
    case '/.well-known/openid-configuration': counts.descriptions += 1; break;
    default:
  }
  if (down) {
    response.statusCode = 503;
    return response.end();
  }
  return answer(request, response);
}).listen(port, '127.0.0.1', () => process.stdout.write('ready\n'));
