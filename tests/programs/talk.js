// A program that knows nothing of a mesh: it serves and calls over HTTP/1.1, HTTP/2 by prior knowledge, WebSocket (calls only) and
// plain TCP, with nothing but what Node brings along.
//
//     node talk.js serve http=PORT h2=PORT tcp=PORT greeting=PORT
//     node talk.js call PROTOCOL HOST PORT WORDS
//
// What is called answers `node: WORDS`, and over HTTP what X-Forwarded-Client-Cert said. Run by crates/app/tests/mesh.

"use strict";
const crypto = require("node:crypto");
const http = require("node:http");
const http2 = require("node:http2");
const net = require("node:net");

const CALLER = "x-forwarded-client-cert";
const PATIENCE = 30_000;

async function collect(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

// The same for both versions of HTTP.
async function tell(request, response) {
  response.end(`node: ${await collect(request)} ${request.headers[CALLER] ?? ""}`);
}

const servers = {
  http: () => http.createServer(tell),
  h2: () => http2.createServer(tell),
  // The client speaks first.
  tcp: () =>
    net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.once("data", (words) => socket.end(`node: ${words.toString().trim()}\n`));
      socket.on("error", () => {});
    }),
  // The server speaks first, as mail servers do.
  greeting: () =>
    net.createServer((socket) => {
      socket.write("220 node is ready\r\n");
      socket.once("data", (line) => socket.end(`250 node: ${line.toString().trim().replace("HELO ", "")}\r\n`));
      socket.on("error", () => {});
    }),
};

function post(host, port, words, agent) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, agent, method: "POST", path: "/tell", timeout: PATIENCE }, async (response) =>
      resolve(`${response.statusCode} ${await collect(response)}`),
    );
    request.on("error", reject).on("timeout", () => request.destroy(new Error("no answer in time")));
    request.end(words);
  });
}

// One short text message each way (RFC 6455 section 5.2).
function exchangeFrames(socket, words, resolve) {
  const mask = crypto.randomBytes(4);
  const payload = Buffer.from(words).map((byte, index) => byte ^ mask[index % 4]);
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | payload.length]), mask, payload]));
  let [seen, done] = [Buffer.alloc(0), false];
  socket.on("data", (piece) => {
    seen = Buffer.concat([seen, piece]);
    if (done || seen.length < 2 || seen.length < 2 + seen[1]) return;
    done = true;
    resolve(seen.subarray(2, 2 + seen[1]).toString());
    // Close, with nothing to say about it.
    socket.end(Buffer.from([0x88, 0x80, 0, 0, 0, 0]));
  });
}

const calls = {
  async http(host, port, words) {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    // Twice, over one connection.
    await post(host, port, words, agent);
    const answer = await post(host, port, words, agent);
    agent.destroy();
    return answer;
  },
  async h2(host, port, words) {
    const session = http2.connect(`http://${host}:${port}`);
    const stream = session.request({ ":method": "POST", ":path": "/tell" });
    stream.end(words);
    let status;
    stream.on("response", (headers) => (status = headers[":status"]));
    const answer = await collect(stream);
    session.close();
    return `${status} ${answer}`;
  },
  websocket(host, port, words) {
    return new Promise((resolve, reject) => {
      const headers = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13" };
      headers["sec-websocket-key"] = crypto.randomBytes(16).toString("base64");
      const request = http.request({ host, port, path: "/", headers, timeout: PATIENCE });
      request.on("upgrade", (_, socket) => exchangeFrames(socket, words, resolve));
      request.on("response", (response) => reject(new Error(`not upgraded: ${response.statusCode}`)));
      request.on("error", reject);
      request.end();
    });
  },
  async tcp(host, port, words) {
    const socket = net.connect({ host, port, allowHalfOpen: true });
    socket.end(`${words}\n`);
    return collect(socket);
  },
  greeting(host, port, words) {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ host, port });
      let said = "";
      socket.on("data", (piece) => {
        said += piece;
        if (said.startsWith("220 ") && said.endsWith("\n") && !said.includes("250 ")) socket.write(`HELO ${words}\r\n`);
      });
      socket.on("end", () => resolve(said)).on("error", reject);
    });
  },
};

async function main([action, ...rest]) {
  if (action === "serve") {
    for (const [protocol, port] of rest.map((pair) => pair.split("="))) servers[protocol]().listen(Number(port), "0.0.0.0");
    return;
  }
  const [protocol, host, port, words] = rest;
  console.log(await calls[protocol](host, Number(port), words));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
