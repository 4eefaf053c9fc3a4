"""One parser under atheris, in a process of its own: `python -m tests.fuzz.coverage NAME`.

atheris follows which branches of this project's code an input takes, and mutates those inputs that
reach new ones. It ends this process itself.
"""

import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Fuzz for `argv[2]` inputs; exit status 0 where none was found wrong."""
    name, runs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    import atheris

    with atheris.instrument_imports(include=["bentos"], enable_loader_override=False):
        import bentos.edge.tokens
        import bentos.inference.channel
        import bentos.inference.images
        import bentos.inference.model.loading
        import bentos.inference.model.numbers
        import bentos.inference.request
        import bentos.logging.request
        import bentos.logging.review.page.heat
        import bentos.logging.review.request  # noqa: F401

    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as corpus:
        for number, content in enumerate(target.seeds()):
            (Path(corpus) / str(number)).write_bytes(content)
        arguments = [f"-runs={runs}", f"-seed={seed}", "-max_len=4096", "-timeout=30", corpus]
        arguments += ["-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={corpus}/"]
        atheris.Setup([sys.argv[0], *arguments], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
