"""What is recorded, and the check of what it leaves."""

from tests.crash import outbox_check, predictions_check
from tests.crash.enumeration import Workload

NO_FSYNC = "no-fsync"
WORKLOADS = {
    "outbox": Workload("tests.crash.outbox_workload", outbox_check.broken_promise),
    "predictions": Workload("tests.crash.predictions_workload", predictions_check.broken_promise),
}
