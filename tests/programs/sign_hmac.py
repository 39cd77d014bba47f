"""A client that signs requests by HMAC in `Authorization`, in a language that is not ours and from the standard library alone.

    sign_hmac.py ADDRESS METHOD TARGET CONTENT [OPTION=VALUE...]

Options: `secret`, `username`, `algorithm` (hmac-sha256), `form` (@request-target, (request-target) or request-line), `skew` (seconds that its clock is
ahead), `send` (another content than was signed), `times` (how often the same request is sent). Prints a line of JSON for each answer. Run by
crates/app/tests/road/signed.rs.
"""

import base64
import hashlib
import hmac
import http.client
import json
import sys
import time
from email.utils import formatdate

address, method, target, content = sys.argv[1:5]
options = dict(option.split("=", 1) for option in sys.argv[5:])
secret = options.get("secret", "a secret of enough bytes").encode()
username = options.get("username", "partner-1")
algorithm = options.get("algorithm", "hmac-sha256")
form = options.get("form", "@request-target")
content = content.encode()

host = address
headers = {"Date": formatdate(time.time() + float(options.get("skew", 0)), usegmt=True), "Host": host}
lines = [f"date: {headers['Date']}", f"host: {host}"]
if form == "request-line":
    lines.append(f"{method} {target} HTTP/1.1")
else:
    lines.append(f"{form}: {method.lower()} {target}")
names = ["date", "host", form]
if content:
    headers["Digest"] = "SHA-256=" + base64.b64encode(hashlib.sha256(content).digest()).decode()
    lines.append(f"digest: {headers['Digest']}")
    names.append("digest")
hashed = getattr(hashlib, algorithm.removeprefix("hmac-"))
signature = base64.b64encode(hmac.new(secret, "\n".join(lines).encode(), hashed).digest()).decode()
headers["Authorization"] = (
    f'hmac username="{username}", algorithm="{algorithm}", headers="{" ".join(names)}", signature="{signature}"'
)

for _ in range(int(options.get("times", 1))):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, target, options.get("send", "").encode() or content or None, headers)
    answer = connection.getresponse()
    said = {"status": answer.status, "challenge": answer.getheader("www-authenticate"), "body": answer.read().decode()}
    print(json.dumps(said))
    connection.close()
