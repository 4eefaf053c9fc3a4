"""The tables of kept pictures and labels, and the migrations of older databases.

`evidence` has a row for each kept picture, which stays when the picture is deleted
(`picture_kept` is 0 then); `pictures` has the files, each once, by the SHA-256 of its content.
`scores` and `challenger` are JSON, the latter null without one; flags are 0 or 1, times Unix
seconds. `random_key` is uniform over 0 to 1 and depends on nothing: pictures that are shown in its
order are a random part of all. `labels` has a row for each label ever given; the one with the
highest `id` counts. Its `edge_device_id` is null where the sender did not say and no kept picture
had the id. Its `true_class` is empty where it takes the ones before back. Of a kept picture,
`true_class` and `labelled` follow from its labels, by triggers: what the last one says, and
whether there is one that was not `reported`, that is given because of what the picture shows.
`heat_maps` has answers of `/explain` as JSON, by picture, and loses them with it.
"""

import sqlite3

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from bentos.logging.store.errors import StoreError

VERSION = 4
migrations = Migrations("review")


@migrations()
def m001_evidence_and_labels(database: Database) -> None:
    """Make the tables."""
    evidence = {
        "id": int,
        "prediction_id": str,
        "edge_device_id": str,
        "timestamp": float,
        "image_id": str,
        "model_name": str,
        "model_version": str,
        "class_name": str,
        "confidence": float,
        "verdict": str,
        "scores": str,
        "sampled": int,
        "sample_probability": float,
        "keep_probability": float,
        "challenger": str,
        "sha256": str,
        "bytes": int,
        "media_type": str,
        "received_at": float,
        "picture_kept": int,
        "random_key": float,
    }
    database.table("evidence").create(
        evidence, pk="id", not_null=evidence.keys() - {"challenger"}, strict=True
    )
    database.table("pictures").create(
        {"sha256": str, "content": bytes}, pk="sha256", not_null={"content"}, strict=True
    )
    labels = {
        "id": int,
        "prediction_id": str,
        "edge_device_id": str,
        "true_class": str,
        "labelled_by": str,
        "note": str,
        "labelled_at": float,
    }
    database.table("labels").create(
        labels, pk="id", not_null=labels.keys() - {"edge_device_id", "note"}, strict=True
    )
    for statement in (
        "CREATE UNIQUE INDEX evidence_by_prediction ON evidence (prediction_id, edge_device_id)",
        "CREATE INDEX evidence_by_time ON evidence (timestamp)",
        # What is kept, oldest first, and by whom a picture is needed: read when some have to go.
        "CREATE INDEX evidence_by_arrival ON evidence (received_at) WHERE picture_kept = 1",
        "CREATE INDEX evidence_by_picture ON evidence (sha256) WHERE picture_kept = 1",
        "CREATE INDEX labels_by_prediction ON labels (prediction_id, edge_device_id, id)",
    ):
        database.execute(statement)


@migrations()
def m002_true_classes(database: Database) -> None:
    """Say of each picture what its labels come to, and index what waits for one."""
    database.execute("ALTER TABLE labels ADD COLUMN reported INTEGER NOT NULL DEFAULT 0")
    database.execute("ALTER TABLE evidence ADD COLUMN true_class TEXT")
    database.execute("ALTER TABLE evidence ADD COLUMN labelled INTEGER NOT NULL DEFAULT 0")
    last = (
        "(SELECT nullif(labels.true_class, '') FROM labels"
        " WHERE labels.prediction_id = evidence.prediction_id AND"
        " coalesce(labels.edge_device_id, evidence.edge_device_id) = evidence.edge_device_id{}"
        " ORDER BY labels.id DESC LIMIT 1)"
    )
    update = (
        f"UPDATE evidence SET true_class = {last.format('')},"  # noqa: S608 - own names
        f" labelled = {last.format(' AND reported = 0')} IS NOT NULL"
    )
    database.execute(
        f"{update} WHERE EXISTS (SELECT 1 FROM labels"  # noqa: S608 - own names
        " WHERE labels.prediction_id = evidence.prediction_id)"
    )
    for table in ("labels", "evidence"):
        database.execute(
            f"CREATE TRIGGER {table}_say_the_true_class AFTER INSERT ON {table}"  # noqa: S608
            " WHEN EXISTS (SELECT 1 FROM labels WHERE labels.prediction_id = NEW.prediction_id)"
            f" BEGIN {update} WHERE prediction_id = NEW.prediction_id; END"
        )
    for sampled, order in ((0, "confidence"), (1, "random_key")):
        database.execute(
            f"CREATE INDEX evidence_waiting_by_{order} ON evidence ({order}, id)"
            f" WHERE labelled = 0 AND sampled = {sampled} AND picture_kept = 1"
        )


@migrations()
def m003_heat_maps(database: Database) -> None:
    """Make the table of heat maps."""
    database.table("heat_maps").create(
        {"sha256": str, "answer": bytes}, pk="sha256", not_null={"answer"}, strict=True
    )
    database.execute(
        "CREATE TRIGGER heat_map_of_no_picture AFTER DELETE ON pictures"
        " BEGIN DELETE FROM heat_maps WHERE sha256 = OLD.sha256; END"
    )


@migrations()
def m004_labels_in_one_step_each(database: Database) -> None:
    """Make a label cost the same however many its picture or its class has already."""
    for statement in (
        "DROP TRIGGER labels_say_the_true_class",
        # A new label is the last one.
        (
            "CREATE TRIGGER labels_say_the_true_class AFTER INSERT ON labels"
            " BEGIN UPDATE evidence SET true_class = nullif(NEW.true_class, ''),"
            " labelled = CASE WHEN NEW.reported THEN labelled ELSE NEW.true_class <> '' END"
            " WHERE prediction_id = NEW.prediction_id"
            " AND edge_device_id = coalesce(NEW.edge_device_id, edge_device_id); END"
        ),
        "DROP INDEX labels_by_prediction",
        # In the order of their ids, so that the last one is found first.
        "CREATE INDEX labels_by_prediction ON labels (prediction_id)",
        "CREATE INDEX labels_by_class ON labels (true_class)",
        "CREATE INDEX evidence_by_class ON evidence (class_name)",
    ):
        database.execute(statement)


def configure(connection: sqlite3.Connection) -> None:
    """Set a connection up and bring the schema up to date in one transaction where it is not.

    Raises StoreError for a database that a newer version of the service has made.
    """
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == VERSION:
        return
    if version > VERSION:
        raise StoreError(
            "other", f"the schema is version {version}; this service knows up to {VERSION}"
        )
    # Free pages can be given back to the file system: only a database without tables takes this.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        migrations.apply(Database(connection, execute_plugins=False))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
