"""Signs a request as HTTP Message Signatures say (RFC 9421), without anything of the gateway's: HMAC by Python, Ed25519 by openssl.

One JSON object on standard input says what to sign; the fields to send are printed as one.
"""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import tempfile


def structured_bytes(value):
    return ":" + base64.b64encode(value).decode() + ":"


def openssl_sign(key_file, message):
    with tempfile.NamedTemporaryFile() as file:
        file.write(message)
        file.flush()
        command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", key_file, "-in", file.name]
        return subprocess.run(command, check=True, capture_output=True).stdout


def main():
    ask = json.load(sys.stdin)
    fields = {}
    path, _, query = ask["target"].partition("?")
    values = {"@method": ask["method"], "@authority": ask["authority"], "@path": path, "@query": "?" + query}
    if ask.get("content") is not None:
        digest = "sha-256=" + structured_bytes(hashlib.sha256(ask["content"].encode()).digest())
        values["content-digest"] = fields["Content-Digest"] = digest
    parameters = f';created={ask["created"]};keyid="{ask["keyid"]}"'
    if ask.get("nonce") is not None:
        parameters += f';nonce="{ask["nonce"]}"'
    covered = "(" + " ".join(f'"{name}"' for name in values) + ")" + parameters
    lines = [f'"{name}": {value}' for name, value in values.items()] + [f'"@signature-params": {covered}']
    base = "\n".join(lines).encode()
    if "secret" in ask:
        signature = hmac.new(ask["secret"].encode(), base, hashlib.sha256).digest()
    else:
        signature = openssl_sign(ask["keyFile"], base)
    fields["Signature-Input"] = "sig1=" + covered
    fields["Signature"] = "sig1=" + structured_bytes(signature)
    json.dump(fields, sys.stdout)


main()
