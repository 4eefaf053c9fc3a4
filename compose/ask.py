"""The health check of containers that have Python and no curl: `python ask.py PORT PATH`.

It ends with 0 where the container itself answers 200 at that port and path.
"""

import sys
from http.client import HTTPConnection

_SECONDS = 2.0


def main(port: str, path: str) -> int:
    """Return 0 where 200 is answered, else 1; OSError where nothing answers."""
    connection = HTTPConnection("127.0.0.1", int(port), timeout=_SECONDS)
    connection.request("GET", path)
    return 0 if connection.getresponse().status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
