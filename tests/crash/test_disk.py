"""The model of a disk that loses its power."""

import random
from collections.abc import Mapping

from tests.crash.disk import SECTOR, Change, Disk, Rename, Truncate, Write

PATH = "/d/file"


def written(*changes: Change) -> Disk:
    disk = Disk()
    disk.opened(PATH, create=True, truncate=False)
    disk.synced("/d", 0)
    for change in changes:
        disk.changed(PATH, change)
    return disk


def states(disk: Disk, *, most: int = 200) -> list[Mapping[str, bytes]]:
    return list(disk.states(random.Random(1), most))


def test_what_was_synced_is_always_there() -> None:
    disk = written(Write(0, b"one"))
    disk.synced(PATH, disk.pending_of(PATH))
    assert all(state == {PATH: b"one"} for state in states(disk))


def test_what_was_not_synced_may_be_there_or_not_in_any_order() -> None:
    disk = written(Write(0, b"one"), Write(SECTOR, b"two"))
    found = {state[PATH] for state in states(disk)}
    assert found == {b"", b"one", b"one" + bytes(509) + b"two", bytes(SECTOR) + b"two"}


def test_a_write_may_be_torn_between_sectors() -> None:
    disk = written(Write(0, b"a" * SECTOR + b"b" * SECTOR))
    found = {state[PATH] for state in states(disk)}
    assert b"a" * SECTOR in found
    assert bytes(SECTOR) + b"b" * SECTOR in found


def test_a_sync_covers_what_was_written_before_it_began() -> None:
    disk = written(Write(0, b"one"))
    covered = disk.pending_of(PATH)
    disk.changed(PATH, Write(3, b"two"))
    disk.synced(PATH, covered)
    assert {state[PATH] for state in states(disk)} == {b"one", b"onetwo"}


def test_a_name_is_there_for_certain_after_a_sync_of_its_directory() -> None:
    disk = Disk()
    disk.opened(PATH, create=True, truncate=False)
    disk.changed(PATH, Write(0, b"one"))
    disk.synced(PATH, disk.pending_of(PATH))
    assert {*map(str, states(disk))} == {str({}), str({PATH: b"one"})}
    disk.synced("/d", 0)
    assert states(disk)[1] == {PATH: b"one"}


def test_names_change_in_the_order_they_were_changed() -> None:
    disk = written(Write(0, b"one"))
    disk.synced(PATH, disk.pending_of(PATH))
    disk.renamed(PATH, "/d/other")
    disk.renamed("/d/other", None)
    assert {*map(str, states(disk))} == {
        str({PATH: b"one"}),
        str({"/d/other": b"one"}),
        str({}),
    }


def test_a_file_is_cut_and_made_longer_with_zeros() -> None:
    disk = written(Write(0, b"one"), Truncate(1), Truncate(2))
    assert disk.all_kept() == {PATH: b"o\x00"}
    assert not Rename(None, "/e/file").within("/d")
