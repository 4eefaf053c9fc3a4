"""The page to review on, without a server and a browser: what it shows, to whom, and its limits."""

import asyncio
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bentos.edge.http import Response, ServiceError
from bentos.edge.tokens import Tokens
from bentos.evidence import ChallengerAnswer, Evidence, HeatMap
from bentos.logging.page.access import require_own_page
from bentos.logging.review.page import ReviewPage
from bentos.logging.review.page.heat import HeatMaps, read_map, svg
from bentos.logging.review.store import ReviewStore
from tests.support.evidence import evidence, png
from tests.support.pages import MAP, ask, basic, explainer, text_of
from tests.support.requests import request

TOKEN = "a-token-for-review"


class House:
    """A page of a service that does not run, and its store."""

    def __init__(
        self, folder: Path, *, token: str | None = None, protect: bool = True, url: str = ""
    ) -> None:
        self.store = ReviewStore(folder)
        tokens = Tokens(token, None, realm="test")
        self.page = ReviewPage(
            self.store,
            require_token=tokens.require,
            protect_reads=protect and token is not None,
            heat=HeatMaps(self.store, url=url, token=TOKEN, seconds=10) if url else None,
        )

    def keep(self, *kept: Evidence) -> None:
        """Store pictures."""
        asyncio.run(self.store.add(kept))

    def label(self, key: str, true_class: str, *, who: str = "Kim", note: str = "") -> None:
        """Label the picture of line-4 with this id."""
        row = (key, "line-4", true_class, who, note or None, 1_795_600_000.0)
        asyncio.run(
            self.store.write(
                lambda connection: connection.execute(
                    "INSERT INTO labels (prediction_id, edge_device_id, true_class, labelled_by,"
                    " note, labelled_at) VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
            )
        )

    def delete_pictures(self) -> None:
        """Delete all pictures, as age and size do."""

        def delete(connection: Any) -> None:
            connection.execute("UPDATE evidence SET picture_kept = 0")
            connection.execute("DELETE FROM pictures")

        asyncio.run(self.store.write(delete))

    def ask(
        self, what: str = "page", query: str = "", *, authorization: str = "", accept: str = ""
    ) -> Response:
        """Return the answer of a route, an error's as well."""
        handler = getattr(self.page, what)
        return asyncio.run(ask(handler, query, authorization=authorization, accept=accept))

    def html(self, query: str = "") -> str:
        """Return a page that is there."""
        response = self.ask("page", query)
        assert response.status == 200, response.body
        return response.body.decode()


def keys_of(page: str) -> dict[str, str]:
    """Return the key of each class's button."""
    found = re.findall(r'data-class="([^"]*)" disabled(?: data-key="(.)")?', page)
    return {html.unescape(name): key for name, key in found}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_page_shows_the_first_of_the_queue_and_what_was_said_of_it(house: House) -> None:
    house.keep(
        evidence("sure", confidence=0.9, sampled=False),
        evidence(
            "unsure",
            confidence=0.35,
            sampled=False,
            scores={"crack": 0.35, "scratch": 0.33, "good": 0.32},
            challenger=ChallengerAnswer("4", "scratch", 0.8),
            image_id="belt/17.png",
        ),
    )
    page = house.html()
    text = text_of(page)
    assert 'data-id="unsure"' in page
    assert "0 of 2 labelled" in text
    assert "Version 3 says crack 35.0%" in text
    assert "Version 4 says scratch 80.0%" in text
    assert "belt/17.png" in text
    assert re.search(r"scratch challenger 33\.0%", text)


def test_next_skips_and_the_end_of_the_queue_leads_back_to_what_was_skipped(house: House) -> None:
    house.keep(*(evidence(f"p{i}", confidence=0.1 * i, sampled=False) for i in range(1, 4)))
    assert 'data-id="p1"' in house.html()
    second = house.html("skip=1")
    assert 'data-id="p2"' in second
    assert 'data-skip="review?skip=2"' in second
    assert 'data-next="review?skip=1"' in second
    assert "You have skipped 3 that still have no label." in text_of(house.html("skip=3"))


def test_a_picture_can_be_named_and_shows_all_labels_it_ever_had(house: House) -> None:
    house.keep(evidence("one"), evidence("other"))
    house.label("one", "good", note="dust")
    house.label("one", "scratch", who="Sam")
    page = house.html("id=one&device=line-4")
    text = text_of(page)
    assert 'data-label="scratch"' in page
    assert "1 of 2 labelled" in text
    assert text.index("Sam") < text.index("Kim")
    assert "dust" in text
    house.label("one", "")
    again = house.html("id=one&device=line-4")
    assert 'data-label=""' in again
    assert "taken back" in text_of(again)


def test_a_filter_narrows_the_queue_and_stays_chosen_on_every_link(house: House) -> None:
    house.keep(
        evidence("a", verdict="fail", edge_device_id="line 7 & more"),
        evidence("b", challenger=ChallengerAnswer("4", "good", 0.8)),
        evidence("c", challenger=ChallengerAnswer("4", "crack", 0.8)),
    )
    failed = house.html("verdict=fail")
    assert 'data-id="a"' in failed
    assert "0 of 1 labelled with these filters" in text_of(failed)
    assert 'data-next="review?verdict=fail"' in failed
    assert '<option value="fail" selected>' in failed
    assert 'data-id="b"' in house.html("differ=true")
    assert 'data-id="a"' in house.html("edge_device_id=line+7+%26+more")
    assert "No picture without a label fits these filters." in text_of(house.html("verdict=pass"))


def test_keys_stay_with_their_classes_and_what_people_add_comes_last(house: House) -> None:
    names = [f"{chr(97 + i)}-defect" for i in range(26)]
    top = dict.fromkeys(names[6:], 0.05)
    house.keep(
        evidence("p1", class_name=names[0], scores=dict.fromkeys(names[:20], 0.05)),
        evidence("p2", class_name=names[25], scores=top),
    )
    first = keys_of(house.html("id=p1&device=line-4"))
    assert [*first] == names
    assert "".join(first.values()) == "123456789abcdefgijklmnopqr"
    house.label("p1", "a new kind")
    second = keys_of(house.html("id=p2&device=line-4"))
    assert second.pop("a new kind") == "s"
    assert second == first


def test_of_many_classes_each_has_a_button_and_the_first_have_keys(house: House) -> None:
    house.keep(evidence("p1"))
    for number in range(60):
        house.keep(evidence(f"more-{number}", class_name=f"class {number:02}", scores={}))
    keys = keys_of(house.html("id=p1&device=line-4"))
    assert len(keys) == 63
    used = [key for key in keys.values() if key]
    assert len(set(used)) == len(used) == 33
    assert not {"h", "u"} & {*used}


def test_an_empty_store_says_how_pictures_come(house: House) -> None:
    assert "set KEEP_IMAGES=true" in text_of(house.html())


def test_all_labelled_is_told(house: House) -> None:
    house.keep(evidence("one"))
    house.label("one", "crack")
    text = text_of(house.html())
    assert "All pictures have a label" in text
    assert "1 of 1 labelled" in text


def test_a_page_may_run_its_own_script_file_and_nothing_inline(house: House) -> None:
    response = house.ask("page")
    policy = dict(response.headers)[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    (address,) = re.findall(r'<script src="([^"]*)" defer></script>', response.body.decode())
    assert address.startswith("review/page.js?v=")
    script = house.ask("script")
    assert script.content_type.startswith(b"text/javascript")
    assert b"innerHTML" not in script.body


def test_a_picture_comes_with_its_type_and_may_do_nothing_in_a_browser(house: House) -> None:
    content = png()
    house.keep(evidence("one", picture=content))
    response = house.ask("picture", "id=one&device=line-4")
    headers = dict(response.headers)
    assert (response.status, response.content_type, response.body) == (200, b"image/png", content)
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b"sandbox" in headers[b"content-security-policy"]
    assert headers[b"cache-control"] == b"private, max-age=600"
    # With one device only, it need not be named.
    assert house.ask("picture", "id=one").status == 200


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("id=", 400),
        ("id=none&device=line-4", 404),
        ("id=one&device=other", 404),
        ("id=twice", 400),
        ("id=%ff", 400),
        ("id=one&skip=-1", 400),
        ("id=one&skip=99999999999999999999", 400),
        ("id=one&verdict=maybe", 400),
        ("id=one&size=3", 400),
    ],
)
def test_a_picture_that_is_not_there_or_is_named_badly_is_a_clear_4xx(
    house: House, query: str, status: int
) -> None:
    house.keep(evidence("one"), evidence("twice"), evidence("twice", edge_device_id="line-5"))
    response = house.ask("picture", query)
    assert response.status == status
    assert json.loads(response.body)["error"]


def test_a_deleted_picture_is_410_and_its_page_stays(house: House) -> None:
    house.keep(evidence("one"))
    house.label("one", "crack")
    house.delete_pictures()
    assert house.ask("picture", "id=one&device=line-4").status == 410
    text = text_of(house.html("id=one&device=line-4"))
    assert "The picture was deleted" in text
    assert "Kim says crack" in text


def test_where_reads_need_a_token_a_browser_asks_for_it(tmp_path: Path) -> None:
    guarded = House(tmp_path, token=TOKEN)
    guarded.keep(evidence("one"))
    for what, query in (("page", ""), ("picture", "id=one"), ("heat", "id=one")):
        for wrong in ("", "Bearer wrong", basic("wrong"), "Basic ==="):
            response = guarded.ask(what, query, authorization=wrong)
            assert response.status == 401
            assert dict(response.headers)[b"www-authenticate"].startswith(b"Basic ")
    for right in (f"Bearer {TOKEN}", basic(TOKEN)):
        assert guarded.ask("page", authorization=right).status == 200
        assert guarded.ask("picture", "id=one", authorization=right).status == 200


def test_where_only_labels_need_a_token_the_page_offers_to_sign_in(tmp_path: Path) -> None:
    half = House(tmp_path, token=TOKEN, protect=False)
    page = half.html("skip=0")
    assert "Sign in" in text_of(page)
    assert half.ask("page", "sign-in").status == 401
    signed_in = half.ask("page", "sign-in", authorization=basic(TOKEN))
    assert "Sign in" not in text_of(signed_in.body.decode())


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),  # a program
        ({"sec-fetch-site": "same-origin", "origin": "http://logging:8001"}, True),
        ({"origin": "http://logging:8001"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://logging:3000"}, False),
        ({"origin": "http://logging:3000"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[", "authorization": basic(TOKEN)}, False),
        ({"origin": "http://evil.example", "authorization": basic(TOKEN)}, False),
        # Only who knows the token can send it so.
        ({"origin": "http://tool.example", "authorization": f"Bearer {TOKEN}"}, True),
    ],
)
def test_a_label_that_another_sites_page_makes_a_browser_send_is_refused(
    headers: dict[str, str], *, allowed: bool
) -> None:
    sent = request(path="/labels", headers={"host": "logging:8001", **headers})
    if allowed:
        require_own_page(sent)
        return
    with pytest.raises(ServiceError) as refused:
        require_own_page(sent)
    assert refused.value.status == 403


def test_a_heat_map_is_asked_for_once_with_the_token_and_the_picture(tmp_path: Path) -> None:
    content = png()
    with explainer(429, 503) as inference:
        house = House(tmp_path, url=inference.url + "/")
        house.keep(evidence("one", picture=content))
        page = house.html()
        assert 'src="review/heat?id=one&amp;device=line-4"' in page
        assert inference.asked == []
        first = house.ask("heat", "id=one&device=line-4")
        again = house.ask("heat", "id=one&device=line-4", accept="application/json")
    assert inference.asked == [("/explain", "image/png", f"Bearer {TOKEN}", content)] * 3
    assert first.content_type == b"image/svg+xml"
    assert b'viewBox="0 0 3 2"' in first.body
    assert first.body.count(b"<rect ") == 2
    assert json.loads(again.body) == MAP


@pytest.mark.parametrize(
    ("status", "says"), [(401, "EXPLAIN_TOKEN"), (404, "EXPLAIN=true"), (500, "500")]
)
def test_without_a_heat_map_the_remedy_is_told(tmp_path: Path, status: int, says: str) -> None:
    with explainer(status) as inference:
        house = House(tmp_path, url=inference.url)
        house.keep(evidence("one"))
        response = house.ask("heat", "id=one")
    body = json.loads(response.body)
    assert (response.status, body["reason"]) == (503, "no_heat_map")
    assert says in body["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"<html>",
        json.dumps(MAP | {"rows": 3}).encode(),
        json.dumps(MAP | {"rows": 10**6}).encode(),
        json.dumps(MAP | {"drops": [["<script>"] * 3] * 2}).encode(),
        json.dumps(MAP | {"drops": [[]]}).encode(),
        b'{"drops": ' + b"[" * 100_000,
        b'{"more": ' + b"[" * 100_000,
        json.dumps(MAP).encode().replace(b"crack", b"\xe3k"),
        json.dumps(MAP | {"class_name": "x" * 2_000_000}).encode(),
    ],
)
def test_an_answer_that_is_no_heat_map_is_not_kept(tmp_path: Path, body: bytes) -> None:
    with explainer() as inference:
        house = House(tmp_path, url=inference.url)
        house.keep(evidence("one"))
        inference.body = body
        assert house.ask("heat", "id=one").status == 503
        inference.body = json.dumps(MAP).encode()
        assert house.ask("heat", "id=one").status == 200


def test_an_inference_service_that_is_away_gives_no_heat_map(tmp_path: Path) -> None:
    with explainer() as inference:
        url = inference.url
    house = House(tmp_path, url=url)
    house.keep(evidence("one"))
    assert house.ask("heat", "id=one").status == 503
    assert house.ask("heat", "id=none").status == 404


def test_without_explain_url_there_is_neither_a_map_nor_a_box_to_ask_for_it(house: House) -> None:
    house.keep(evidence("one"))
    assert "data-heat" not in house.html()
    response = house.ask("heat", "id=one")
    assert response.status == 404
    assert "EXPLAIN_URL" in json.loads(response.body)["error"]


def test_a_heat_map_goes_with_its_picture(tmp_path: Path) -> None:
    def count(connection: Any) -> int:
        return int(connection.execute("SELECT count(*) FROM heat_maps").fetchone()[0])

    with explainer() as inference:
        house = House(tmp_path, url=inference.url)
        house.keep(evidence("one"))
        house.ask("heat", "id=one")
        assert asyncio.run(house.store.read(count)) == 1
        house.delete_pictures()
        assert asyncio.run(house.store.read(count)) == 0
        assert len(inference.asked) == 1


@pytest.mark.parametrize("drops", [[[0.0] * 3] * 2, [[-1.0] * 3] * 2, [[1e300] * 3] * 2])
def test_any_drops_make_a_picture(drops: Sequence[Sequence[float]]) -> None:
    found = read_map(msgspec.json.encode(MAP | {"drops": drops}))
    assert isinstance(found, HeatMap)
    assert svg(found).startswith(b"<svg ")
