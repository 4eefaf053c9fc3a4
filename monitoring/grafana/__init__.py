"""Grafana dashboards as typed Python, the JSON made from them, and a renderer without Grafana.

The builders are this package's own, not grafana-foundation-sdk: the SDK is a public preview whose
every release follows one Grafana line, while these dashboards keep to the classic schema that
Grafana 10 to 12 read alike. What they use of it is small, so that a few hundred lines of frozen
dataclasses serve better than a pinned preview: a selector is built from the metric catalogue and
cannot name an unknown metric or label, and a panel cannot be made without title, description and
unit.
"""
