"""Signatures of models by OpenSSF's `model-signing`, checked before anything is loaded.

A version is signed after it was registered: download its folder, sign it, and put the signature
into it, for a logged model with `MlflowClient().log_model_artifact`:

    model_signing sign key FOLDER --private_key private.pem --signature FOLDER/model.sig

See github.com/sigstore/model-transparency. Whoever holds the key decides which files are covered;
a signature says nothing of the name that a model is registered under.
"""

import shutil
import tempfile
from pathlib import Path

from bentos.inference.model.spec import UnusableModel

SIGNATURE = "model.sig"
# MLflow writes it beside the files that it downloads; nothing reads it here.
_NOT_SIGNED = "registered_model_meta"


def check_signature(folder: Path, public_key: Path) -> None:
    """Refuse a downloaded model that was not signed with the key, or altered since.

    Raises UnusableModel. The signature is taken out of the folder.
    """
    try:
        from model_signing import verifying
    except ImportError:
        raise UnusableModel(
            "MODEL_SIGNATURE_KEY is set, and signatures cannot be checked: install model-signing"
        ) from None
    if not (folder / SIGNATURE).is_file():
        raise UnusableModel(
            f"the version is not signed: it has no {SIGNATURE}, and MODEL_SIGNATURE_KEY is set"
        )
    (folder / _NOT_SIGNED).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="signature-") as elsewhere:
        signature = shutil.move(folder / SIGNATURE, elsewhere)
        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
            config.verify(folder, Path(signature))
        except Exception as error:  # of keys, certificates, formats, digests
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise UnusableModel(
                f"the version's signature does not fit its files and MODEL_SIGNATURE_KEY: "
                f"{lines[0][:500]}"
            ) from error
