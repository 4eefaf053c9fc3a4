"""The backup and restore jobs' own commands, run on real databases.

The containers' mounts are directories of the test: a mount path in a command, in a variable or
in the script's arguments is replaced by its directory, and nothing else is changed.
"""

import asyncio
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bentos.logging.review.store import ReviewStore
from bentos.logging.store.sqlite import SqliteDatabase
from tests.k8s.manifests import command, environment, named, rendered, workload
from tests.support.evidence import evidence
from tests.support.logging_store import row
from tests.support.servers import Server, start_service

BACKUP = "logging-backup"
RESTORE = "logging-restore"
LOGGING_SERVICE = "bentos.logging.service:LoggingService"

# Commits one row after the other and says each number once it is on disk.
_WRITER = """
import itertools, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS predictions (id INTEGER PRIMARY KEY, image_id TEXT)")
for number in itertools.count(1):
    db.execute("INSERT INTO predictions (image_id) VALUES (?)", (f"image-{number}",))
    print(number, flush=True)
"""


@dataclass(frozen=True)
class Cluster:
    """The directories that stand for the jobs' mounts."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "predictions" / "predictions.db"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    def copies(self) -> list[Path]:
        """Return the finished copies, oldest first."""
        return sorted(self.backups.glob("predictions-*.db"))

    def run(
        self, job: str, *, command_name: str = "", **changes: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a job's command from the manifest, variables changed as an operator may.

        `command_name` takes the place of the script's own command.
        """
        objects = rendered("production")
        container = workload(job, objects).container
        variables = environment(container, objects) | changes
        words = command(container, variables)
        assert words[0] == "python"
        words[2] = command_name or words[2]
        mounts = {
            mount["mountPath"]: str(self.root / mount["name"])
            for mount in container["volumeMounts"]
        }
        for path, directory in mounts.items():
            words = [word.replace(f"={path}", f"={directory}") for word in words]
            words = [
                directory + word.removeprefix(path) if word.startswith(f"{path}/") else word
                for word in words
            ]
        return subprocess.run(
            # The standard library alone: no package of ours is there to be imported.
            [sys.executable, "-I", "-S", *words[1:]],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )

    def does(self, job: str, **changes: str) -> dict[str, Any]:
        """Run a job that succeeds and return the last line that it printed."""
        finished = self.run(job, **changes)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return said(finished)

    def refuses(self, job: str, **changes: str) -> str:
        """Run a job that fails and return the error that it told."""
        finished = self.run(job, **changes)
        assert finished.returncode == 1
        return str(said(finished)["error"])


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Lay out the volumes, with the script as its ConfigMap carries it."""
    objects = rendered("production")
    volumes = workload(BACKUP, objects).pod["volumes"]
    for volume in volumes:
        directory = tmp_path / volume["name"]
        directory.mkdir()
        if "configMap" in volume:
            for name, content in named("ConfigMap", volume["configMap"]["name"], objects)[
                "data"
            ].items():
                (directory / name).write_text(content)
    return Cluster(tmp_path)


@pytest.fixture
def backed_up(cluster: Cluster) -> Cluster:
    """Volumes with a database and one backup of it."""
    with writer(cluster.database):
        cluster.does(BACKUP)
    return cluster


@contextmanager
def writer(database: Path) -> Iterator["subprocess.Popen[str]"]:
    """Keep a process committing to the database, from before the block to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(database)], stdout=subprocess.PIPE, text=True
    )
    try:
        committed(process)
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def committed(process: "subprocess.Popen[str]") -> int:
    """Return the number of a row that is on disk, one more with each call."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def rows(database: Path) -> int:
    """Return how many predictions a database holds; it must be sound."""
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return int(db.execute("SELECT count(*) FROM predictions").fetchone()[0])


def said(finished: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Return the last line that a job printed."""
    return dict(json.loads(finished.stdout.splitlines()[-1]))


def test_a_backup_of_a_database_in_use_holds_all_that_was_committed(cluster: Cluster) -> None:
    with writer(cluster.database) as process:
        before = [committed(process) for _ in range(200)][-1]
        report = cluster.does(BACKUP)
        (copy,) = cluster.copies()
        assert rows(copy) >= before
        assert committed(process) > before
    assert report["message"] == "backed up"
    assert report["rows"] == {"predictions": rows(copy)}


def test_a_restore_brings_back_the_newest_backup_and_keeps_the_former_database(
    cluster: Cluster,
) -> None:
    with writer(cluster.database) as process:
        [committed(process) for _ in range(50)]
        cluster.does(BACKUP)
        [committed(process) for _ in range(50)]
    at_backup = rows(cluster.copies()[-1])
    at_end = rows(cluster.database)
    assert at_end > at_backup
    former = cluster.database.with_name(cluster.does(RESTORE)["former"])
    assert rows(cluster.database) == at_backup
    assert rows(former) == at_end
    left = {path.name for path in cluster.database.parent.iterdir()}
    assert left == {cluster.database.name, former.name}


def test_a_restored_database_is_written_to_again(backed_up: Cluster) -> None:
    at_backup = rows(backed_up.copies()[-1])
    backed_up.does(RESTORE)
    with writer(backed_up.database) as process:
        committed(process)
    assert rows(backed_up.database) > at_backup


def test_a_restore_is_refused_while_the_service_has_the_database(cluster: Cluster) -> None:
    with writer(cluster.database) as process:
        cluster.does(BACKUP)
        before = committed(process)
        assert "scale the logging service to 0" in cluster.refuses(RESTORE)
        assert committed(process) > before
    assert rows(cluster.database) > rows(cluster.copies()[-1])
    assert not list(cluster.database.parent.glob("*before-restore*"))


def test_a_restore_into_an_empty_volume_needs_no_former_database(backed_up: Cluster) -> None:
    for path in backed_up.database.parent.iterdir():
        path.unlink()
    backed_up.does(RESTORE)
    assert rows(backed_up.database) == rows(backed_up.copies()[-1])


def test_a_restore_replaces_a_damaged_database(backed_up: Cluster) -> None:
    """The damaged file is what a restore is for; it is kept for whoever wants to look."""
    for path in backed_up.database.parent.iterdir():
        path.unlink()  # from a whole log SQLite would have mended the file
    backed_up.database.write_bytes(b"not a database" * 1000)
    former = backed_up.database.with_name(backed_up.does(RESTORE)["former"])
    assert rows(backed_up.database) == rows(backed_up.copies()[-1])
    assert former.read_bytes().startswith(b"not a database")


def test_a_named_backup_can_be_restored(cluster: Cluster) -> None:
    with writer(cluster.database) as process:
        cluster.does(BACKUP)
        [committed(process) for _ in range(20)]
        cluster.does(BACKUP)
    oldest, newest = cluster.copies()
    assert rows(oldest) < rows(newest)
    cluster.does(RESTORE, BACKUP=oldest.name)
    assert rows(cluster.database) == rows(oldest)


def test_a_damaged_backup_is_not_restored(backed_up: Cluster) -> None:
    (copy,) = backed_up.copies()
    content = bytearray(copy.read_bytes())
    content[4096:8192] = os.urandom(4096)
    copy.write_bytes(content)
    before = rows(backed_up.database)
    assert "damaged" in backed_up.refuses(RESTORE)
    assert rows(backed_up.database) == before


def test_a_backup_that_is_not_there_is_told_with_those_that_are(backed_up: Cluster) -> None:
    error = backed_up.refuses(RESTORE, BACKUP="predictions-2020.db")
    assert backed_up.copies()[0].name in error


def test_only_the_newest_backups_are_kept(cluster: Cluster) -> None:
    with writer(cluster.database):
        for _ in range(4):
            cluster.does(BACKUP, KEEP="2")
    assert len(cluster.copies()) == 2


def test_a_backup_that_fails_leaves_the_older_ones(backed_up: Cluster) -> None:
    """There is no database, so there is nothing to copy: the job fails and is seen to."""
    (copy,) = backed_up.copies()
    for path in backed_up.database.parent.iterdir():
        path.unlink()
    assert "no database" in backed_up.refuses(BACKUP, KEEP="1")
    assert backed_up.copies() == [copy]
    assert not backed_up.database.exists()


def test_the_leftover_of_a_killed_backup_is_no_backup(cluster: Cluster) -> None:
    """A copy gets its name only when it is whole; what is not is cleared away."""
    leftover = cluster.backups / "predictions-20200101T000000Z.partial"
    leftover.write_bytes(b"half")
    with writer(cluster.database):
        cluster.does(BACKUP)
    assert len(cluster.copies()) == 1
    assert not leftover.exists()


def test_a_backup_says_that_it_was_restored_and_leaves_no_other_file(cluster: Cluster) -> None:
    """Each backup is restored and counted when it is made; only the copy is left of that."""
    with writer(cluster.database) as process:
        [committed(process) for _ in range(20)]
        report = cluster.does(BACKUP)
    assert report["restored_and_checked"] is True
    assert [path.name for path in cluster.backups.iterdir()] == [report["file"]]


def script(cluster: Cluster) -> ModuleType:
    """Return the jobs' script as a module, for what no command line brings about."""
    (path,) = cluster.root.glob("scripts/*.py")
    specification = importlib.util.spec_from_file_location("database_backup", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_copy_from_which_nothing_sound_can_be_restored_is_no_backup(
    backed_up: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = backed_up.copies()
    module = script(backed_up)
    copy_database = module.copy_database

    def damaging(source: sqlite3.Connection, target: Path) -> None:
        copy_database(source, target)
        if target.name.endswith("-restored"):
            content = bytearray(target.read_bytes())
            content[4096:8192] = os.urandom(4096)
            target.write_bytes(content)

    monkeypatch.setattr(module, "copy_database", damaging)
    with pytest.raises(module.BackupError, match="damaged"):
        module.backup(backed_up.database, backed_up.backups, keep=1)
    assert list(backed_up.backups.iterdir()) == older


def test_a_copy_that_restores_to_fewer_rows_is_no_backup(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer(cluster.database) as process:
        [committed(process) for _ in range(20)]
    module = script(cluster)
    copy_database = module.copy_database

    def losing(source: sqlite3.Connection, target: Path) -> None:
        copy_database(source, target)
        with closing(sqlite3.connect(target)) as db, db:
            db.execute("DELETE FROM predictions WHERE id = 1")

    monkeypatch.setattr(module, "copy_database", losing)
    with pytest.raises(module.BackupError, match="rows instead of"):
        module.backup(cluster.database, cluster.backups, keep=1)
    assert cluster.copies() == []


def test_pictures_and_labels_are_backed_up_and_restored_by_name(cluster: Cluster) -> None:
    """Both databases are copied, each with its own newest ones kept; `latest` is predictions."""
    review = cluster.database.parent / "review" / "review.db"
    store = ReviewStore(review.parent)
    with writer(cluster.database):
        asyncio.run(store.add([evidence(), evidence()]))
        for _ in range(2):
            cluster.does(BACKUP, KEEP="1")
    (copy,) = cluster.backups.glob("review-*.db")
    assert len(cluster.copies()) == 1
    asyncio.run(store.add([evidence()]))
    assert cluster.does(RESTORE)["former"].startswith("predictions.db")
    report = cluster.does(RESTORE, BACKUP=copy.name)
    assert report["rows"]["evidence"] == 2
    assert report["former"].startswith("review.db")
    added = asyncio.run(store.add([evidence()]))
    assert added.answer.stored == 1


def test_totals_that_are_not_those_of_the_predictions_are_found(cluster: Cluster) -> None:
    """Of the service's own tables, the totals are compared with the rows."""
    database = SqliteDatabase(cluster.database, busy_timeout_seconds=1)
    database.open()
    database.write([[row(defect_detected=number == 0) for number in range(5)]])
    database.close()
    cluster.does(BACKUP)
    with closing(sqlite3.connect(cluster.database)) as db, db:
        db.execute("DELETE FROM predictions WHERE id = 3")
    assert "the totals say" in cluster.refuses(BACKUP)
    assert len(cluster.copies()) == 1


def test_the_list_tells_how_old_each_backup_is(backed_up: Cluster) -> None:
    older = backed_up.backups / "predictions-20200101T000000.000000Z.db"
    older.write_bytes(backed_up.copies()[0].read_bytes())
    finished = backed_up.run(BACKUP, command_name="list")
    lines = [json.loads(line) for line in finished.stdout.splitlines()]

    assert [line["file"] for line in lines] == [path.name for path in backed_up.copies()]
    assert lines[0]["hours"] > 24 * 365
    assert 0 <= lines[1]["hours"] < 1


def test_the_jobs_know_the_database_where_the_service_keeps_it() -> None:
    """Where the databases are is written down in three places; they agree."""
    objects = rendered("production")
    review = {
        environment(workload(name, objects).container, objects)["REVIEW_DATABASE"]
        for name in (BACKUP, RESTORE)
    }
    service = environment(workload("logging-service", objects).container, objects)
    assert review == {f"{service['REVIEW_PATH']}/review.db"}
    paths = {
        environment(workload(name, objects).container, objects)["DATABASE_PATH"]
        for name in (BACKUP, RESTORE, "logging-service")
    }
    assert len(paths) == 1


def prediction(number: int) -> dict[str, object]:
    """Return a prediction as an edge device sends it."""
    return {
        "prediction_id": f"{number:032x}",
        "image_id": f"image-{number}",
        "timestamp": 1_760_000_000.0 + number,
        "model_version": "1",
        "model_name": "steel-defects",
        "inference_time_ms": 1.0,
        "detections": [],
        "defect_detected": False,
        "confidence_scores": [0.5],
    }


@pytest.mark.slow
def test_the_service_goes_on_with_a_restored_database(cluster: Cluster) -> None:
    """Log, back up beside the running service, log more, stop, restore, start: what was backed up
    is there, and a prediction that came after is stored once when it is sent again.
    """
    environment = {"DATABASE_PATH": str(cluster.database)}
    with start_service(LOGGING_SERVICE, cluster.root, env=environment) as server:
        server.wait_until_ready()
        log(server, range(100))
        assert cluster.does(BACKUP)["rows"]["predictions"] == 100
        log(server, range(100, 150))
        assert "in use" in cluster.refuses(RESTORE)
        assert server.stop() == 0
    cluster.does(RESTORE)
    with start_service(LOGGING_SERVICE, cluster.root, env=environment) as server:
        server.wait_until_ready()
        assert server.get("/stats").json()["total_predictions"] == 100
        log(server, range(100, 150))
        assert server.get("/stats").json()["total_predictions"] == 150
        assert server.stop() == 0


def log(server: Server, numbers: range) -> None:
    """Hand predictions over and see them acknowledged."""
    batch = {
        "predictions": [prediction(number) for number in numbers],
        "batch_size": len(numbers),
        "timestamp": 1_760_000_000.0,
        "edge_device_id": "test",
    }
    assert server.post("/log", json=batch).json()["status"] == "success"
