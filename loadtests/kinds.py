"""The kinds of request that clients send."""

from dataclasses import dataclass

from bentos.inference.state import PREDICT_IMAGE_PATH, PREDICT_PATH
from bentos.logging.state import LOG_PATH
from loadtests.settings import LoadTestSettings


@dataclass(frozen=True)
class RequestKind:
    """A route, what is sent to it, and what a right answer contains."""

    path: str
    content_type: str
    proof: bytes

    @property
    def title(self) -> str:
        """The name of these requests in every table."""
        return f"POST {self.path}"


PREDICT = RequestKind(PREDICT_PATH, "application/json", b'"prediction_id"')
IMAGE = RequestKind(PREDICT_IMAGE_PATH, "image/png", b'"prediction_id"')
LOG = RequestKind(LOG_PATH, "application/json", b'"success"')


def expected_requests(settings: LoadTestSettings) -> list[str]:
    """Return the titles of the requests that a test with these settings has to send."""
    weights = (
        (PREDICT, settings.predict_weight),
        (IMAGE, settings.image_weight),
        (LOG, settings.log_weight if settings.logging_url else 0),
    )
    return [kind.title for kind, weight in weights if weight]
