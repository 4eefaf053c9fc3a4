#!/usr/bin/env python3
"""`wget -q --spider URL` of busybox: 0 where the URL is answered, and nothing is kept."""

import sys
import urllib.request

urllib.request.urlopen(sys.argv[-1], timeout=2).close()
