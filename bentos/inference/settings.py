"""What the inference service is set by, in environment variables of the same names."""

from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta
from pydantic import (
    AnyHttpUrl,
    BaseModel,
    Field,
    FilePath,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from bentos.edge.tokens import TokensFile
from bentos.evidence import MIN_SHARE
from bentos.process.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    """Settings of the inference service, read once at start."""

    inference_port: int = Field(
        default=8000, ge=1, le=65_535, validate_default=True, description="Port of the service."
    )
    probe_port: int = Field(
        default=8010, ge=0, le=65_535, description="Port of the probe process; 0 for none."
    )
    mlflow_tracking_uri: str = Field(
        default="sqlite:///.data/mlflow.db",
        min_length=1,
        description="MLflow server, or the database of an embedded registry.",
    )
    model_name: str = Field(
        default="steel-defects", min_length=1, description="Registered model to serve."
    )
    model_stage: str = Field(
        default="production",
        min_length=1,
        description="Registry alias whose version is served and followed; else an old-style stage, "
        "or a version's number.",
    )
    model_poll_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Pause between checks of MLflow and of the version the alias points to.",
    )
    mlflow_timeout_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Longest a check of MLflow may take before it counts as down.",
    )
    model_download_timeout_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Longest wait for the next byte while a model is downloaded.",
    )
    model_spread_seconds: float = Field(
        default=10.0,
        ge=0,
        description="Longest wait, chosen at random, before a served model is replaced by a new "
        "version, so that pods do so one after the other.",
    )
    model_signature_key: FilePath | None = Field(
        default=None,
        description="Public key (PEM, elliptic curve) that versions have to be signed with by "
        "`model-signing`; others are refused.",
    )
    readiness_requires_mlflow: Literal["always", "startup", "never"] = Field(
        default="always",
        description="When `/ready` needs MLflow: always, until the model is loaded, or never.",
    )
    class_names: str = Field(
        default="", description="Comma-separated class names, over those the model carries."
    )
    defect_classes: str = Field(
        default="", description="Comma-separated classes that are defects, over the model's own."
    )
    thresholds: Annotated[dict[str, float], NoDecode] = Field(
        default={},
        description="Least confidence at which a class needs no review, over the model's own: a "
        'JSON object as `{"crack": 0.8}`. A class without any has 0.5.',
    )
    drift_window_seconds: float = Field(
        default=3_600.0,
        ge=60,
        le=86_400,
        description="Sliding window over which what is served is compared with what the model was "
        "trained on, in seconds.",
    )
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="cpu", description="Where the model runs; `auto` takes a GPU where there is one."
    )
    torch_threads: int = Field(
        default=1, ge=1, description="Threads of the model; keep in step with the CPU limit."
    )
    max_batch_size: int = Field(
        default=16, ge=1, le=4_096, description="Most inputs in one call of the model."
    )
    queue_size: int = Field(
        default=256, ge=1, description="Inputs that may wait for the model; beyond it is a 429."
    )
    max_image_pixels: int = Field(
        default=25_000_000, ge=1, description="Most pixels an image may have; beyond it is a 413."
    )
    image_bit_depth: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="Bits that the camera uses of 16-bit images, over the model's and the file's "
        "own `sBIT`; all 16 where nobody says.",
    )
    logging_url: AnyHttpUrl | None = Field(
        default=None, description="Logging service; predictions are not handed over without it."
    )
    logging_token: SecretStr | None = Field(
        default=None, description="Bearer token for the logging service."
    )
    logging_token_file: Path | None = Field(
        default=None,
        description="File with that token instead, read again for each request; of several lines "
        "the first that is accepted.",
    )
    predict_tokens_file: TokensFile | None = Field(
        default=None,
        description="File of tokens that `/predict` requires, one a line; without it, none.",
    )
    edge_device_id: str = Field(
        default="inference-service", min_length=1, max_length=128, description="Who predicted."
    )
    outbox_path: Path = Field(
        default=Path(".data/outbox"), description="Directory of predictions not yet acknowledged."
    )
    outbox_max_rows: int = Field(
        default=1_000_000, ge=1, description="Most predictions that wait for the logging service."
    )
    outbox_max_bytes: int = Field(
        default=536_870_912,
        ge=1_048_576,
        description="Largest size of the outboxes of all workers on disk, in bytes.",
    )
    outbox_full: Literal["refuse", "drop_oldest"] = Field(
        default="refuse",
        description="When the outbox is full: answer 503 `outbox_full`, or drop the oldest.",
    )
    prediction_ack: Literal["durable", "fast"] = Field(
        default="durable",
        description="Whether an answer waits until the prediction is on disk.",
    )

    explain: bool = Field(
        default=False,
        description="Whether `/explain` tells which part of a picture decided, in a process of its "
        "own that is there while it is used.",
    )
    shadow_stage: str = Field(
        default="",
        description="Registry alias of a challenger, which is asked a sample of what the served "
        "model is asked and only compared; without it, none.",
    )
    shadow_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="Share of the requests that the challenger is asked as well, at most.",
    )
    side_memory_bytes: int = Field(
        default=1_073_741_824,
        ge=536_870_912,
        description="Memory that a process beside the served model may allocate, in bytes.",
    )

    keep_images: bool = Field(
        default=False,
        description="Whether pictures of `/predict_image` are sent to the logging service for"
        " review: all that did not pass, and a share of the others.",
    )
    keep_pass_share: float = Field(
        default=0.02,
        ge=MIN_SHARE,
        le=1,
        description="Share of the pictures with the verdict `pass` that is kept, at random; all of"
        " it is in the sample that figures are made of.",
    )
    keep_sample_share: float = Field(
        default=0.2,
        ge=MIN_SHARE,
        le=1,
        description="Share of the pictures with another verdict that is in that sample; all of them"
        " are kept.",
    )
    keep_queue_bytes: int = Field(
        default=33_554_432,
        ge=1_048_576,
        description="Memory for kept pictures that wait for the logging service, in bytes; beyond"
        " it, they are dropped.",
    )

    @model_validator(mode="after")
    def _kept_where(self) -> Self:
        if self.keep_images and self.logging_url is None:
            raise ValueError("KEEP_IMAGES needs LOGGING_URL, where the pictures are sent to")
        return self

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.logging_token is not None and self.logging_token_file is not None:
            raise ValueError("set LOGGING_TOKEN or LOGGING_TOKEN_FILE, not both")
        return self

    @model_validator(mode="after")
    def _two_models(self) -> Self:
        if self.shadow_stage == self.model_stage:
            raise ValueError(
                "SHADOW_STAGE is MODEL_STAGE: a model would be compared with itself; name the "
                "challenger's alias"
            )
        return self

    @field_validator("model_name", "model_stage", "shadow_stage")
    @classmethod
    def _no_separator(cls, value: str) -> str:
        if any(character in value for character in "/:@"):
            raise ValueError("must not contain '/', ':' or '@'; give the bare name")
        return value

    @field_validator("thresholds", mode="before")
    @classmethod
    def _by_class(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return msgspec.json.decode(value, type=dict[str, Annotated[float, Meta(ge=0, le=1)]])
        except msgspec.DecodeError as error:
            raise ValueError(
                "must be a JSON object of numbers from 0 to 1 by class, as "
                f'{{"crack": 0.8}}: {error}'
            ) from None

    @property
    def metadata_overrides(self) -> dict[str, object]:
        """What the operator sets over the model's own metadata, see `Metadata`."""
        overrides = {
            "class_names": _split(self.class_names),
            "defect_classes": _split(self.defect_classes),
            "bit_depth": self.image_bit_depth,
            "thresholds": self.thresholds,
        }
        return {name: value for name, value in overrides.items() if value}


class ModelProcessSettings(BaseModel):
    """What a worker tells its model process: its own settings, and as whom to log.

    `niceness` is what it adds to the worker's own; beyond `data_bytes` of memory its allocations
    fail, and where memory runs out the kernel ends it first.
    """

    settings: InferenceSettings
    service: str
    worker: int
    niceness: int = 5
    data_bytes: int | None = None


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
