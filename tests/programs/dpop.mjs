// A client whose tokens are bound to a key of its own (DPoP, RFC 9449), by Node and nothing of the gateway's: node dpop.mjs PROVIDER GATEWAY [RESOURCE]
//
// Gets a token of the provider at PROVIDER, for RESOURCE or an opaque one, shows it at GATEWAY in good and bad ways, and prints one JSON object: the
// status of the answer to each, the fields that the backend was told of, and the token.
import { createHash, generateKeyPairSync, randomUUID, sign } from 'node:crypto';

const [provider, gateway, resource] = process.argv.slice(2);
let nonce;
const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const pair = () => generateKeyPairSync('ec', { namedCurve: 'P-256' });

function proof({ privateKey, publicKey }, method, url, token, more = {}) {
  const { kty, crv, x, y } = publicKey.export({ format: 'jwk' });
  const claims = { jti: randomUUID(), htm: method, htu: url, iat: Math.floor(Date.now() / 1000), ...more };
  if (token) claims.ath = createHash('sha256').update(token).digest('base64url');
  if (nonce) claims.nonce = nonce;
  const signed = `${encoded({ typ: 'dpop+jwt', alg: 'ES256', jwk: { kty, crv, x, y } })}.${encoded(claims)}`;
  const signature = sign('sha256', Buffer.from(signed), { key: privateKey, dsaEncoding: 'ieee-p1363' });
  return `${signed}.${signature.toString('base64url')}`;
}

const own = pair();
const granted = await fetch(`${provider}/token`, {
  method: 'POST',
  headers: {
    authorization: `Basic ${Buffer.from('job:job-secret').toString('base64')}`,
    dpop: proof(own, 'POST', `${provider}/token`),
  },
  body: new URLSearchParams({ grant_type: 'client_credentials', scope: 'orders.read', ...(resource ? { resource } : {}) }),
}).then((answer) => answer.json());
const token = granted.access_token;
const url = `${gateway}/orders`;

async function show(authorization, shown, { method = 'GET', target = '/orders?page=2' } = {}) {
  const headers = { authorization, ...(shown ? { dpop: shown } : {}) };
  const answer = await fetch(`${gateway}${target}`, { method, headers });
  nonce = answer.headers.get('dpop-nonce') ?? nonce;
  return { status: answer.status, challenge: answer.headers.get('www-authenticate'), body: await answer.text() };
}

// A gateway that wants a nonce says so, and which.
const first = await show(`DPoP ${token}`, proof(own, 'GET', url, token));

const good = proof(own, 'GET', url, token);
const told = {
  type: granted.token_type,
  first,
  good: await show(`DPoP ${token}`, good),
  again: await show(`DPoP ${token}`, good),
  fresh: await show(`DPoP ${token}`, proof(own, 'GET', url, token)),
  bearer: await show(`Bearer ${token}`),
  unproved: await show(`DPoP ${token}`),
  stolen: await show(`DPoP ${token}`, proof(pair(), 'GET', url, token)),
  elsewhere: await show(`DPoP ${token}`, proof(own, 'GET', `${gateway}/other`, token)),
  method: await show(`DPoP ${token}`, proof(own, 'GET', url, token), { method: 'DELETE' }),
  other: await show(`DPoP ${token}`, proof(own, 'GET', url, 'another')),
  old: await show(`DPoP ${token}`, proof(own, 'GET', url, token, { iat: Math.floor(Date.now() / 1000) - 300 })),
  token,
};
process.stdout.write(JSON.stringify(told));
