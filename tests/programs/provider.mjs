// A real OpenID provider (npm: oidc-provider) for the tests of tokens: node provider.mjs MODULES PORT
//
// Says `ready` when it listens. Whoever wants to log in is Ann, without being asked. POST /test/rotate gives it new keys, /test/skew?seconds=N sets its clock wrong, /test/down makes it answer
// everything with 503 and /test/up ends that; /test/gateway?at=ADDRESS says where the site is that is told of logouts; /test/ttl?seconds=N makes new access tokens end that soon; GET /test/counts tells how often
// its keys were asked for, tokens looked up, codes traded and sessions renewed.
import { createServer, request as send } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';

// Standard output is for `ready` alone.
console.log = console.info = console.warn = console.error;
const [modules, port] = process.argv.slice(2);
const { default: Provider } = await import(`${modules}/oidc-provider/lib/index.js`);
const issuer = `http://127.0.0.1:${port}`;
const now = Date.now;
let skew = 0;
let lifetime = 300;
let gateway = '127.0.0.1:9';
Date.now = () => now() + skew * 1000;

function key(type, options, number, alg) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), kid: `${alg}-${number}`, use: 'sig', alg };
}

const client = (client_id, client_secret, grant_types) => ({
  client_id, client_secret, grant_types, redirect_uris: [], response_types: [],
});

// Sends a message to the site, by its name, at the address of the gateway.
function deliver(url, { method, headers, body }) {
  const fields = { ...Object.fromEntries(headers), host: url.host };
  return new Promise((resolve, reject) => {
    const sent = send(`http://${gateway}${url.pathname}`, { method, headers: fields }, (answer) => {
      answer.resume();
      resolve({ status: answer.statusCode });
    });
    sent.on('error', reject);
    sent.end(String(body));
  });
}

function provider(number) {
  const made = new Provider(issuer, {
    clients: [
      {
        client_id: 'shop', client_secret: 'shop-secret-planted', redirect_uris: ['https://site.test/oauth2/callback'],
        backchannel_logout_uri: 'https://site.test/oauth2/backchannel', backchannel_logout_session_required: true,
        post_logout_redirect_uris: ['https://site.test/bye'], grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'],
      },
      { ...client('machine', 'machine-secret', ['client_credentials']), tls_client_certificate_bound_access_tokens: true },
      client('job', 'job-secret', ['client_credentials']), client('gate', 'gate-secret-planted', ['client_credentials']),
    ],
    cookies: { keys: ['a key of the provider'] },
    // The site is wherever the test says that its gateway is: on this machine, where the provider would ask nobody.
    fetch: (url, options) => deliver(new URL(url), options),
    claims: { openid: ['sub', 'groups'] },
    conformIdTokenClaims: false,
    pkce: { required: () => true },
    rotateRefreshToken: true,
    findAccount: (_, accountId) => ({ accountId, claims: () => ({ sub: accountId, groups: ['staff'] }) }),
    issueRefreshToken: (_, one) => one.grantTypeAllowed('refresh_token'),
    interactions: { url: (_, interaction) => `/log-in/${interaction.uid}` },
    async loadExistingGrant({ oidc }) {
      const grant = new made.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
      grant.addOIDCScope('openid');
      await grant.save();
      return grant;
    },
    jwks: { keys: [key('rsa', { modulusLength: 2048 }, number, 'RS256'), key('ec', { namedCurve: 'P-256' }, number, 'ES256')] },
    scopes: ['orders.read', 'orders.write'],
    ttl: { ClientCredentials: 600, AccessToken: () => lifetime, IdToken: 300 },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      backchannelLogout: { enabled: true },
      // What would be the certificate of the connection comes in a field, in base64: the connection to this provider has none.
      mTLS: { enabled: true, certificateBoundAccessTokens: true, getCertificate: (ctx) => ctx.get('x-client-cert') || undefined },
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
  const answer = made.callback();
  return (request, response) => {
    if (!request.url.startsWith('/log-in/')) return answer(request, response);
    return made.interactionFinished(request, response, { login: { accountId: 'ann' } });
  };
}

// The form of a request, which the provider finds in `body` then.
async function form(request) {
  let text = '';
  for await (const part of request) text += part;
  request.body = Object.fromEntries(new URLSearchParams(text));
  return request.body;
}

let number = 1;
let answer = provider(number);
let down = false;
const counts = { keys: 0, lookups: 0, descriptions: 0, authorization_code: 0, refresh_token: 0 };
createServer(async (request, response) => {
  const url = new URL(request.url, issuer);
  switch (url.pathname) {
    case '/test/rotate': number += 1; answer = provider(number); return response.end();
    case '/test/skew': skew = Number(url.searchParams.get('seconds')); return response.end();
    case '/test/ttl': lifetime = Number(url.searchParams.get('seconds')); return response.end();
    case '/test/gateway': gateway = url.searchParams.get('at'); return response.end();
    case '/test/down': down = true; return response.end();
    case '/test/up': down = false; return response.end();
    case '/test/counts': return response.end(JSON.stringify(counts));
    case '/jwks': counts.keys += 1; break;
    case '/token/introspection': counts.lookups += 1; break;
    case '/token': {
      const { grant_type: kind } = await form(request);
      if (kind in counts) counts[kind] += 1;
      break;
    }
    case '/.well-known/openid-configuration': counts.descriptions += 1; break;
    default:
  }
  if (down) {
    response.statusCode = 503;
    return response.end();
  }
  return answer(request, response);
}).listen(port, '127.0.0.1', () => process.stdout.write('ready\n'));
