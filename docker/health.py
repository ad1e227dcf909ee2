"""Is the server of this container alive? Exit status 0 if ``/healthz`` says so, else 1.

For the health check of the image: nothing but Python's own library, and no options. The port is
that of the server; whether it speaks TLS is found by trying.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request

SECONDS = 4.0
"""Less than the health check's time-out, so that the reason is still printed."""


def ask(url: str) -> str:
    """Return what is wrong with the answer to ``url``; nothing if it is 200."""
    # The certificate names a public host and not this loopback address: it is not checked.
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    # No proxy: the environment may name one for the weights.
    handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=SECONDS) as answer:
            return "" if answer.status == 200 else f"{url}: status {answer.status}"
    except OSError as error:
        return f"{url}: {error}"


def main() -> int:
    """Ask over HTTP, then over HTTPS."""
    port = os.environ.get("DIFFSCRIBE_PORT", "8000")
    problems = []
    for scheme in ("http", "https"):
        problem = ask(f"{scheme}://127.0.0.1:{port}/healthz")
        if not problem:
            return 0
        problems.append(problem)
    print("; ".join(problems), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
