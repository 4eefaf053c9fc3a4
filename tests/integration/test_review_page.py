"""People who label kept pictures: the page of a running service, in a real browser."""

import base64
import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from PIL import Image

from bentos.evidence import ChallengerAnswer, Evidence
from local.browser import Browser, Page
from tests.support.evidence import evidence
from tests.support.pages import DESKTOP, PHONE, SIZES, Explainer, check_page, explainer
from tests.support.servers import Server, start_service, wait_until

LOGGING = "bentos.logging.service:LoggingService"
TOKEN = "a-token-for-labels"
CLASSES = ("crack", "good", "scratch")
HOSTILE = "\"'><script>window.hurt = 1</script><img src=x onerror='window.hurt = 2'>"


@pytest.fixture(scope="module")
def inference() -> Iterator[Explainer]:
    """What answers `/explain`, and `/` with a page of another site."""
    with explainer() as running:
        yield running


@contextlib.contextmanager
def logging_service(directory: Path, **env: str) -> Iterator[Server]:
    """Run a logging service with its pictures in the directory."""
    path = {"DATABASE_PATH": str(directory / "predictions.db")}
    with start_service(LOGGING, directory, env=path | env) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, inference: Explainer) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("logging")
    with logging_service(directory, EXPLAIN_URL=inference.url) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with logging_service(tmp_path_factory.mktemp("guarded"), LOGGING_TOKEN=TOKEN) as running:
        keep(running, [kept("p1"), kept("p2")], token=TOKEN)
        yield running


def kept(prediction_id: str, **changes: Any) -> Evidence:
    """Return a kept picture of 48 x 32 pixels, unlike any other."""
    shade = hash(prediction_id) % 256
    file = io.BytesIO()
    Image.effect_noise((48, 32), 60 + shade / 4).save(file, "PNG")
    scores = {"crack": 0.4, "scratch": 0.35, "good": 0.25}
    return evidence(prediction_id, **{"picture": file.getvalue(), "scores": scores} | changes)


def keep(server: Server, pictures: Sequence[Evidence], *, token: str = "") -> None:
    """Send pictures as the inference service does."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = msgspec.json.encode({"evidence": pictures})
    assert server.post("/evidence", content=body, headers=headers).status_code == 200


def labels_of(server: Server, device: str, *, token: str = "") -> list[dict[str, Any]]:
    """Return the labels of a device's pictures, in the order in which they were given."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found = server.get("/labels?limit=1000", headers=headers).json()["labels"]
    return [label for label in found if label["edge_device_id"] == device]


def wait_for_labels(server: Server, device: str, count: int) -> list[dict[str, Any]]:
    wait_until(
        lambda: len(labels_of(server, device)) >= count,
        f"{device} has {count} labels",
        seconds=30.0,
    )
    return labels_of(server, device)


def shown(page: Page) -> str:
    """Return the id of the picture that a page shows and can label, empty where there is none."""
    found = page.evaluate(
        "(() => { const main = document.querySelector('main[data-id]');"
        " const button = document.querySelector('[data-class]');"
        " return main && !main.ariaBusy && button && !button.disabled ? main.dataset.id : ''; })()"
    )
    return str(found)


def wait_for_another(page: Page, before: str) -> str:
    """Return the id of the picture that comes after; empty where none is left."""

    def changed() -> bool:
        # A document that is still being read has no picture yet either.
        done = page.evaluate(
            "document.readyState === 'complete' && !document.querySelector('main[data-id]')"
        )
        return (bool(done) and "Review" in page.text) or shown(page) not in ("", before)

    wait_until(changed, f"another picture than {before}", seconds=30.0, describe=lambda: page.text)
    return shown(page)


def test_fifty_pictures_are_labelled_with_keys(browser: Browser, server: Server) -> None:
    names = {f"keys-{number}": CLASSES[number % 3] for number in range(50)}
    keep(server, [kept(name, edge_device_id="keys") for name in names])
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.open(f"{server.url}/review?edge_device_id=keys")
        assert "0 of 50 labelled" in page.text
        page.write("[data-who]", "Kim")
        page.press("Enter")
        current, seen = shown(page), []
        while current:
            seen.append(current)
            page.press(str(1 + CLASSES.index(names[current])))
            current = wait_for_another(page, current)
        assert "No picture without a label fits these filters." in page.text
        assert "50 of 50 labelled" in page.text
        check_page(page, server, scripts=1)
    labels = labels_of(server, "keys")
    assert {label["prediction_id"]: label["true_class"] for label in labels} == names
    assert len(labels) == len(seen) == 50
    assert {label["labelled_by"] for label in labels} == {"Kim"}


def test_fifty_pictures_are_labelled_with_a_finger_on_a_phone(
    browser: Browser, server: Server
) -> None:
    names = {f"touch-{number}": CLASSES[number % 3] for number in range(50)}
    keep(server, [kept(name, edge_device_id="touch") for name in names])
    with browser.page(width=PHONE[0], height=PHONE[1]) as page:
        page.open(f"{server.url}/review?edge_device_id=touch")
        page.write("[data-who]", "Sam")
        current = shown(page)
        small = page.evaluate(
            "[...document.querySelectorAll('[data-class], .moves > *')]"
            ".filter(one => one.getBoundingClientRect().height < 44).length"
        )
        assert small == 0
        while current:
            page.tap(f'[data-class="{names[current]}"]')
            current = wait_for_another(page, current)
        check_page(page, server, scripts=1)
    labels = labels_of(server, "touch")
    assert {label["prediction_id"]: label["true_class"] for label in labels} == names
    assert len(labels) == 50


def test_skip_back_and_undo(browser: Browser, server: Server) -> None:
    pictures = [
        kept(f"moves-{number}", edge_device_id="moves", confidence=number / 10, sampled=False)
        for number in range(1, 4)
    ]
    keep(server, pictures)
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.open(f"{server.url}/review?edge_device_id=moves")
        page.write("[data-who]", "Kim")
        page.press("Escape")
        assert shown(page) == "moves-1"
        page.press("ArrowRight")
        assert wait_for_another(page, "moves-1") == "moves-2"
        page.press("1")
        # The skipped one is not shown again at once.
        assert wait_for_another(page, "moves-2") == "moves-3"
        page.press("u")
        assert wait_for_another(page, "moves-3") == "moves-2"
        assert "taken back" in page.text
        page.press("2")
        assert wait_for_another(page, "moves-2") == "moves-3"
        page.press("ArrowLeft")
        assert wait_for_another(page, "moves-3") == "moves-2"
        assert "Kim says good" in page.text
        page.press("3")
        wait_for_another(page, "moves-2")
        page.press("u")
        wait_for_another(page, "moves-3")
        check_page(page, server, scripts=1)
    said = [label["true_class"] for label in wait_for_labels(server, "moves", 5)]
    assert said == ["crack", None, "good", "scratch", "good"]


def test_another_class_and_a_note_are_typed_and_no_letter_of_them_is_a_key(
    browser: Browser, server: Server
) -> None:
    keep(server, [kept("typed-1", edge_device_id="typed")])
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.open(f"{server.url}/review?edge_device_id=typed")
        page.press("1")
        wait_until(lambda: "Enter your name first" in page.text, "it asks for a name")
        assert page.evaluate("document.activeElement.dataset.who") == ""
        for letter in "1uh":
            page.press(letter)
        page.press("Enter")
        page.evaluate("document.querySelector('.more').open = true")
        page.write("[data-note]", "seen at <b>noon</b>")
        page.write("[data-other]", "burnt 1")
        page.press("Enter")
        wait_for_another(page, "typed-1")
        page.open(f"{server.url}/review?id=typed-1&device=typed")
        assert "seen at <b>noon</b>" in page.text
    (label,) = labels_of(server, "typed")
    assert (label["true_class"], label["labelled_by"]) == ("burnt 1", "1uh")


@SIZES
def test_which_part_decided_is_shown_over_the_picture(
    browser: Browser, server: Server, size: tuple[int, int]
) -> None:
    keep(server, [kept("heat-1", edge_device_id="heat")])
    with browser.page(width=size[0], height=size[1]) as page:
        page.open(f"{server.url}/review?edge_device_id=heat")
        assert not any("/review/heat" in url for url in page.requests)
        page.press("h")
        loaded = "document.querySelector('[data-map]').naturalWidth > 0"
        wait_until(lambda: page.evaluate(loaded), "the map is there", seconds=30.0)
        boxes = page.evaluate(
            "[...document.querySelectorAll('[data-part], [data-map]')].map(one =>"
            " { const box = one.getBoundingClientRect();"
            " return [box.x, box.y, box.width, box.height].map(Math.round); })"
        )
        assert boxes[0] == boxes[1]
        assert abs(boxes[0][2] / boxes[0][3] - 48 / 32) < 0.05
        check_page(page, server, scripts=1)
        page.open(f"{server.url}/review?edge_device_id=heat")
        assert page.evaluate("document.querySelector('[data-heat]').checked")


def test_a_heat_map_that_failed_at_first_is_asked_for_again(
    browser: Browser, server: Server, inference: Explainer
) -> None:
    keep(server, [kept("again-1", edge_device_id="again")])
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.open(f"{server.url}/review?edge_device_id=again")
        inference.statuses.append(500)
        page.press("h")
        loaded = "document.querySelector('[data-map]').naturalWidth > 0"
        wait_until(lambda: page.evaluate(loaded), "the map is there", seconds=30.0)
        page.open(f"{server.url}/review?edge_device_id=again")
        assert "No heat map" not in page.text


def test_a_map_that_takes_longer_than_a_request_may_is_told_with_its_reason(
    tmp_path: Path, inference: Explainer
) -> None:
    with logging_service(
        tmp_path, EXPLAIN_URL=inference.url, REQUEST_TIMEOUT_SECONDS="2"
    ) as running:
        keep(running, [kept("late-1")])
        inference.statuses[:] = [503] * 100
        answer = running.get("/review/heat?id=late-1")
        inference.statuses.clear()
    assert (answer.status_code, answer.json()["reason"]) == (503, "no_heat_map")
    assert "in 1.8 s" in answer.json()["error"]


def test_without_a_script_all_can_be_read(browser: Browser, server: Server) -> None:
    pictures = [kept(f"plain-{n}", edge_device_id="plain", sampled=False) for n in range(2)]
    keep(server, pictures)
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.open(f"{server.url}/review?edge_device_id=plain")
        page.screenshot(Path(os.devnull))
        page.call("Emulation.setScriptExecutionDisabled", value=False)
        assert "To label needs JavaScript" in page.text
        assert page.evaluate("document.images[0].naturalWidth") == 48
        assert page.evaluate("document.querySelector('[data-class]').disabled")
        links = page.evaluate("[...document.links].map(link => link.href)")
    following = next(link for link in links if "skip=1" in link)
    assert 'data-id="plain-1"' in httpx.get(following, trust_env=False, headers=HTML).text


HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_the_same_address_gives_programs_the_queue_as_json(server: Server) -> None:
    keep(server, [kept("json-1", edge_device_id="json")])
    for accept in ("application/json", "*/*"):
        answer = server.get("/review?edge_device_id=json", headers={"Accept": accept})
        assert answer.json()["pictures"][0]["prediction_id"] == "json-1"
    page = server.get("/review?edge_device_id=json", headers=HTML)
    assert page.headers["content-type"].startswith("text/html")


@SIZES
def test_names_from_outside_break_nothing(
    browser: Browser, server: Server, size: tuple[int, int]
) -> None:
    """Names that are HTML, and 500 letters without a space, on 26 classes."""
    device = HOSTILE + f" {size[0]}"
    names = [HOSTILE, "W" * 500, *(f"{chr(97 + number)} defect" for number in range(24))]
    picture = kept(
        HOSTILE,
        edge_device_id=device,
        image_id="\u202egnp.exe" + "x" * 400,
        model_name=HOSTILE,
        model_version=HOSTILE,
        class_name=HOSTILE,
        challenger=ChallengerAnswer(HOSTILE, HOSTILE, 0.4),
        scores=dict.fromkeys(names[:20], 0.05),
    )
    others = [
        kept(f"{size[0]}-{number}", model_name=HOSTILE, class_name=name)
        for number, name in enumerate(names)
    ]
    keep(server, [picture, *others])
    with browser.page(width=size[0], height=size[1]) as page:
        page.open(str(httpx.URL(f"{server.url}/review", params={"edge_device_id": device})))
        assert HOSTILE in page.text
        page.write("[data-who]", HOSTILE)
        page.press("Escape")
        page.press("1")
        wait_for_another(page, HOSTILE)
        key = {"id": HOSTILE, "device": device}
        page.open(str(httpx.URL(f"{server.url}/review", params=key)))
        assert "Labels of this picture" in page.text
        check_page(page, server, scripts=1)
    assert len(labels_of(server, device)) == 1


def test_a_service_that_is_away_loses_no_label_and_says_so(
    browser: Browser, tmp_path: Path
) -> None:
    with logging_service(tmp_path) as running:
        keep(running, [kept("away-1", edge_device_id="away")])
        with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
            page.open(f"{running.url}/review")
            page.write("[data-who]", "Kim")
            page.press("Escape")
            running.stop()
            page.press("1")
            says = "Nothing was stored; try again."
            wait_until(lambda: says in page.text, says, describe=lambda: page.text)
            assert shown(page) == "away-1"


def test_a_browser_signs_in_and_labels(browser: Browser, guarded: Server) -> None:
    assert guarded.get("/review", headers=HTML).status_code == 401
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.open(guarded.url.replace("://", f"://any:{TOKEN}@") + "/review?sign-in")
        # The browser keeps the password for all of the service's addresses.
        page.open(f"{guarded.url}/review")
        before = shown(page)
        page.write("[data-who]", "Kim")
        page.press("Escape")
        page.press("1")
        assert wait_for_another(page, before)
        assert page.evaluate("document.images[0].naturalWidth") == 48
    assert len(labels_of(guarded, "line-4", token=TOKEN)) == 1


def test_a_page_of_another_site_cannot_label(
    browser: Browser, server: Server, guarded: Server, inference: Explainer
) -> None:
    """A form and a request of a page elsewhere, also where the browser knows the password."""
    label = {"prediction_id": "p2", "true_class": "crack", "labelled_by": "evil"}
    body = msgspec.json.encode(label).decode()
    basic = base64.b64encode(f"any:{TOKEN}".encode()).decode()
    for origin in ("http://evil.example", inference.url, "null"):
        for running, headers in ((server, {}), (guarded, {"Authorization": f"Basic {basic}"})):
            sent = headers | {"Origin": origin, "Content-Type": "text/plain"}
            assert running.post("/labels", content=body, headers=sent).status_code == 403
    with browser.page(width=DESKTOP[0], height=DESKTOP[1]) as page:
        page.open(guarded.url.replace("://", f"://any:{TOKEN}@") + "/review")
        page.open(inference.url)
        address = f"{guarded.url}/labels"
        page.evaluate(
            f"fetch({address!r}, {{method: 'POST', mode: 'no-cors', credentials: 'include',"
            f" body: {body!r}}}).finally(() => {{ document.title = 'sent'; }})"
        )
        wait_until(lambda: page.evaluate("document.title") == "sent", "it is sent", seconds=30.0)
        page.evaluate(
            "(() => { const form = document.createElement('form'); form.method = 'post';"
            f" form.action = {address!r}; form.enctype = 'text/plain';"
            f" const field = document.createElement('input'); field.name = {body!r};"
            " form.append(field); document.body.append(form); form.submit(); })()"
        )
        wait_until(lambda: "other_site" in page.text, "it is refused", describe=lambda: page.text)
    said = labels_of(guarded, "line-4", token=TOKEN)
    assert "evil" not in {one["labelled_by"] for one in said}


def test_looking_at_pictures_says_nothing_of_the_services_work(server: Server) -> None:
    before = server.get("/ready").json()["errors"]
    for path in ("/review?skip=x", "/review/picture?id=none", "/review/heat?id=none"):
        assert server.get(path, headers=HTML).status_code in (400, 404)
    ready = server.get("/ready")
    assert (ready.status_code, ready.json()["errors"]) == (200, before)
