"""Words and colours that panels have in common."""

from monitoring.grafana.schema import Threshold, Thresholds, ValueText

STAT_HEIGHT = 4
CHART_HEIGHT = 8

UP_OR_DOWN = (ValueText(1, "Up", "green"), ValueText(0, "Down", "red"))
READY_OR_NOT = (ValueText(1, "Ready", "green"), ValueText(0, "Not ready", "red"))
YES_OR_NO = (ValueText(1, "Yes", "green"), ValueText(0, "No", "red"))
FAILING = (ValueText(0, "Fine", "green"), ValueText(1, "Not ready", "red"))

PLAIN = Thresholds("text")
BLUE = Thresholds("blue")
ZERO_IS_GOOD = Thresholds("green", (Threshold(1, "red"),))
FEW_ARE_ODD = Thresholds("green", (Threshold(1, "yellow"), Threshold(3, "red")))
