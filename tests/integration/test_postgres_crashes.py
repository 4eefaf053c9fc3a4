"""What is acknowledged is stored, once, whatever happens to PostgreSQL and the way to it."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from bentos.edge.http import ServiceError
from bentos.logging.store import StatsQuery, Stored, StoredPrediction, StoreError
from tests.support.logging_store import WAIT_SECONDS, RunningStore, opened, row, running_store
from tests.support.postgres import PostgresServer, postgres_server, query
from tests.support.proxy import Proxy
from tests.support.servers import wait_until


class Senders:
    """Threads that send batches, each until it is acknowledged, and say what was."""

    def __init__(self, stores: list[RunningStore], threads: int = 4) -> None:
        self._stores = stores
        self._ended = threading.Event()
        self.acknowledged: list[str] = []
        self.refused = 0
        self.unexpected: list[BaseException] = []
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        """Return when so many predictions more are acknowledged."""
        enough = len(self.acknowledged) + more
        wait_until(
            lambda: len(self.acknowledged) >= enough,
            f"{more} more are acknowledged",
            seconds=60,
            describe=lambda: f"{self.refused} refused, {self.unexpected}",
        )

    def wait_for_refusal(self) -> None:
        """Return when a batch more was refused."""
        before = self.refused
        wait_until(lambda: self.refused > before, "a batch is refused", seconds=60)

    def stop(self) -> None:
        """Have every batch that was begun acknowledged, and end."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.unexpected == []

    def _send(self, number: int) -> None:
        store = self._stores[number % len(self._stores)]
        try:
            while not self._ended.is_set():
                self._deliver(store, [row(defect_detected=n % 2 == 0) for n in range(5)])
        except BaseException as error:
            self.unexpected.append(error)

    def _deliver(self, store: RunningStore, rows: list[StoredPrediction]) -> None:
        while True:
            try:
                stored = store.begin(rows).result(WAIT_SECONDS * 2)
            except (ServiceError, StoreError):
                self.refused += 1
                self._ended.wait(0.02)
            else:
                assert stored.predictions + stored.duplicates == len(rows)
                self.acknowledged += [str(one.prediction_id) for one in rows]
                return


@contextmanager
def sending(stores: list[RunningStore]) -> Iterator[Senders]:
    """Send batches to stores for the block."""
    senders = Senders(stores)
    try:
        yield senders
    finally:
        senders.stop()


def check(url: str, senders: Senders, stores: list[RunningStore]) -> None:
    """Check that what was acknowledged is stored, nothing twice, and all of it counted once."""
    stored = [found for (found,) in query(url, "SELECT prediction_id FROM predictions")]
    stats = stores[0].stats(StatsQuery())
    twice = [one for one, times in Counter(stored).items() if times > 1]

    assert twice == []
    assert set(senders.acknowledged) == set(stored)
    assert len(senders.acknowledged) == len(stored)
    assert query(url, "SELECT count(*) FROM prediction_ids") == [(len(stored),)]
    assert stats["total_predictions"] == len(stored)
    assert stats["defects_detected"] == len(stored) * 3 // 5
    counted = sum(int(one.state.predictions.value) for one in stores)
    duplicates = sum(int(one.state.duplicates.value) for one in stores)
    # A commit whose answer was lost is counted by nobody; sent again, it is a duplicate.
    assert counted <= len(stored) <= counted + duplicates


def test_a_server_that_is_killed_while_batches_flow_loses_nothing_and_stores_nothing_twice(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.url(postgres.make_database())
    with (
        RunningStore(url, tmp_path / "one") as one,
        RunningStore(url, tmp_path / "other") as other,
    ):
        stores = [one, other]
        for store in stores:
            store.wait_until_accessible()
        with sending(stores) as senders:
            for _ in range(4):
                senders.wait_for(50)
                postgres.kill()
                senders.wait_for_refusal()
                assert not one.state.db_accessible or not other.state.db_accessible
                postgres.start()
                # They come back by themselves.
                senders.wait_for(50)
        for store in stores:
            store.wait_until_accessible()
        check(url, senders, stores)
        assert one.state.store_errors["unreachable"].value > 0


@pytest.mark.parametrize("mode", ["swallow", "break", "cut"])
def test_a_connection_that_is_cut_in_the_middle_of_a_commit_counts_nothing_twice(
    mode: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    """The server may have committed when the answer is lost: the batch comes again, stored once."""
    name = postgres.make_database()
    proxy = Proxy(postgres.port)
    try:
        with running_store(postgres.url(name, ports=[proxy.port]), tmp_path / "pod") as store:
            with sending([store]) as senders:
                for _ in range(8):
                    senders.wait_for(20)
                    proxy.become(mode)  # type: ignore[arg-type]
                    senders.wait_for_refusal()
                    proxy.become("pass")
                senders.wait_for(20)
            store.wait_until_accessible()
            check(postgres.url(name), senders, [store])
    finally:
        proxy.close()


def test_a_fail_over_to_the_standby_loses_nothing_and_stores_nothing_twice(tmp_path: Path) -> None:
    """The first server dies for good while batches flow; the standby is promoted and takes over."""
    with postgres_server() as first, postgres_server(standby_of=first) as standby:
        query(first.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")
        query(first.url(), "SELECT pg_reload_conf()")
        followed = "SELECT sync_state FROM pg_stat_replication"
        wait_until(
            lambda: query(first.url(), followed) == [("sync",)],
            "commits wait for the standby",
            seconds=60,
        )
        name = first.make_database()
        url = first.url(name, ports=[first.port, standby.port])
        with running_store(url, tmp_path / "pod") as store:
            with sending([store]) as senders:
                senders.wait_for(100)
                first.kill()
                senders.wait_for_refusal()
                query(standby.url(), "SELECT pg_promote()")
                senders.wait_for(100)
            store.wait_until_accessible()
            check(standby.url(name), senders, [store])


@contextmanager
def commits_that_wait(url: str) -> Iterator[None]:
    """Have commits wait for a standby that is not there, for the block."""

    def wait_for(name: str) -> None:
        query(url, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        query(url, "SELECT pg_reload_conf()")
        wait_until(
            lambda: query(url, "SHOW synchronous_standby_names") == [(name,)],
            "the setting holds",
            seconds=15,
        )

    wait_for("lagging")
    try:
        yield
    finally:
        wait_for("")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND state = 'active'"


def wait_for_a_waiting_commit(url: str) -> None:
    """Return when a commit is on the server's disk and waits for the standby."""
    wait_until(lambda: query(url, WAITING) == [(1,)], "the commit waits", seconds=15)


def end_waiting_commits(url: str) -> None:
    """End the sessions whose commits wait for the standby."""
    query(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
    )


def test_a_batch_is_not_acknowledged_before_a_standby_that_lags_has_it(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.url(postgres.make_database())
    with running_store(url, tmp_path / "pod", check_seconds=60) as store:
        with commits_that_wait(url):
            waiting = store.begin([row("a")])
            wait_for_a_waiting_commit(url)
            assert not waiting.done()
        assert waiting.result(WAIT_SECONDS).predictions == 1


def test_a_duplicate_is_not_acknowledged_before_a_standby_that_lags_has_it(
    postgres: PostgresServer,
) -> None:
    """A replica whose commit waits for the standby is cut off; another gets the same batch."""
    url = postgres.url(postgres.make_database())
    sent = [row()]
    with opened(url) as first, opened(url) as other, ThreadPoolExecutor() as threads:
        first.write([[row()]])  # makes the partition of the month
        with commits_that_wait(url):
            waiting = threads.submit(first.write, [sent])
            wait_for_a_waiting_commit(url)
            end_waiting_commits(url)
            wait_until(lambda: query(url, WAITING) == [(0,)], "it can be seen", seconds=15)
            again = threads.submit(other.write, [sent])
            wait_until(
                lambda: again.done() or query(url, WAITING) == [(1,)], "it waits", seconds=15
            )
            assert not again.done()
        with pytest.raises(StoreError):
            waiting.result(WAIT_SECONDS)
        assert again.result(WAIT_SECONDS) == [Stored(predictions=0, duplicates=1, defects=0)]


def test_a_commit_whose_answer_is_lost_is_a_duplicate_when_it_is_sent_again(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.url(postgres.make_database())
    with running_store(url, tmp_path / "pod", check_seconds=60) as store:
        # Makes the partition of the month, which is a commit of its own.
        store.put(row())
        sent = [row(), row()]
        with commits_that_wait(url):
            waiting = store.begin(sent)
            wait_for_a_waiting_commit(url)
            end_waiting_commits(url)
        with pytest.raises(StoreError) as lost:
            waiting.result(WAIT_SECONDS)
        store.wait_until_accessible()
        again = store.put(*sent)

        assert lost.value.reason == "unreachable"
        assert (again.predictions, again.duplicates) == (0, 2)
        assert store.stats(StatsQuery())["total_predictions"] == len(store.ids()) == 3
        # It is not known to this replica that it stored them: it counts what it stored for sure.
        assert (store.state.predictions.value, store.state.duplicates.value) == (1, 2)
