"""Unit identifiers of Grafana's value formats, by category, as far as dashboards like ours go.

Source: Grafana, packages/grafana-data/src/valueFormats/categories.ts.
"""

MISC = ("none", "string", "short", "percent", "percentunit", "sci", "locale", "hex", "hex0x")
DATA = (
    *("bytes", "decbytes", "bits", "decbits", "kbytes", "deckbytes", "mbytes", "decmbytes"),
    *("gbytes", "decgbytes", "tbytes", "dectbytes", "pbytes", "decpbytes"),
)
DATA_RATE = ("pps", "binBps", "Bps", "binbps", "bps", "KiBs", "KBs", "MiBs", "MBs", "GiBs", "GBs")
DATE_AND_TIME = ("dateTimeAsIso", "dateTimeAsLocal", "dateTimeAsSystem", "dateTimeFromNow")
TIME = (
    *("hertz", "ns", "µs", "ms", "s", "m", "h", "d", "dtdurationms", "dtdurations"),
    *("dthms", "dtdhms", "timeticks", "clockms", "clocks"),
)
THROUGHPUT = (
    *("cps", "ops", "reqps", "rps", "wps", "iops", "mps"),
    *("cpm", "opm", "rpm", "wpm", "mpm"),
)
BOOLEAN = ("bool", "bool_yes_no", "bool_on_off")

UNITS = frozenset((*MISC, *DATA, *DATA_RATE, *DATE_AND_TIME, *TIME, *THROUGHPUT, *BOOLEAN))
