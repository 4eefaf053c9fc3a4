"""Requests to image files: bodies, forms, and forms that are none."""

import pytest

from bentos.edge.http import ServiceError
from bentos.inference.uploads import Upload, upload_of
from tests.support.images import colour_file, form_of
from tests.support.requests import request

FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}
PICTURE = colour_file((1, 2, 3))


def test_a_body_that_is_no_form_is_the_file_itself() -> None:
    for media_type in ("image/png", "application/octet-stream", ""):
        sent = request(headers={"Content-Type": media_type})
        assert upload_of(sent, PICTURE) == Upload(PICTURE)


@pytest.mark.parametrize(
    "about",
    [
        'form-data; name="image"; filename="a.png"',
        'form-data; name="anything"; filename="a.png"',
        "form-data; name=file; filename=a.png",
        'form-data; filename="a.png"; name="x"',
    ],
)
def test_a_form_gives_its_one_file_and_its_name(about: str) -> None:
    body = form_of([('form-data; name="note"', b"hello"), (about, PICTURE)])
    assert upload_of(request(headers=FORM), body) == Upload(PICTURE, "a.png")


def test_a_part_called_image_needs_no_file_name() -> None:
    for name in ("image", "file"):
        body = form_of([(f'form-data; name="{name}"', PICTURE)])
        assert upload_of(request(headers=FORM), body) == Upload(PICTURE)


def test_a_file_may_hold_what_looks_like_a_boundary() -> None:
    content = PICTURE + b"\r\n--frontie\r\n--\r\n\r\n" + PICTURE
    body = form_of([('form-data; name="image"; filename="a"', content)])
    assert upload_of(request(headers=FORM), body).content == content


def test_a_boundary_may_be_quoted_and_text_may_stand_before_and_after_the_parts() -> None:
    headers = {"Content-Type": 'Multipart/Form-Data; charset=x; boundary="fron tier"'}
    body = form_of([('form-data; name="image"', PICTURE)], boundary=b"fron tier")
    assert upload_of(request(headers=headers), body + b"epilogue").content == PICTURE


def test_a_name_is_cut_and_kept_harmless() -> None:
    long = "x" * 1_000
    body = form_of([(f'form-data; name="image"; filename="{long}"', PICTURE)])
    assert len(upload_of(request(headers=FORM), body).filename) == 200
    raw = form_of([('form-data; name=image; filename="WRONG"', PICTURE)])
    upload = upload_of(request(headers=FORM), raw.replace(b"WRONG", b"a\xff\x00\x1b[31m\tb"))
    assert upload.filename.isprintable()


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        ([], 0),
        ([('form-data; name="note"', b"hello")], 0),
        ([("attachment", PICTURE)], 0),
        ([('form-data; name="image"; filename="a"', PICTURE)] * 2, 2),
        ([('form-data; name="image"', PICTURE), ('form-data; name="x"; filename=""', b"")], 2),
    ],
)
def test_a_form_without_a_file_or_with_several_is_refused(
    parts: list[tuple[str, bytes]], count: int
) -> None:
    with pytest.raises(ServiceError) as refused:
        upload_of(request(headers=FORM), form_of(parts))
    assert refused.value.status == 400
    if parts:
        assert f"expected one file in the form, got {count}" in refused.value.message


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, form_of([("form-data; name=image", PICTURE)])),
        ({"Content-Type": "multipart/form-data; boundary="}, b""),
        ({"Content-Type": f"multipart/form-data; boundary={'x' * 3_000}"}, b"--x"),
        ({"Content-Type": "multipart/form-data; boundary=\xff\xfe"}, b"--\xff\xfe\r\n"),
        (FORM, b""),
        (FORM, b"no form at all"),
        (FORM, PICTURE),
        (FORM, form_of([("form-data; name=image", PICTURE)], boundary=b"another")),
        (FORM, form_of([("form-data; name=image", PICTURE)], end=False)),
        (FORM, form_of([("form-data; name=image", PICTURE)])[:-30]),
        (FORM, b"--frontier\r\n" + b"x" * 100_000),
        (FORM, b"--frontier\r\n" + b"a: b\r\n" * 1_000),
        (FORM, b"--frontier\r\nbad header\r\n\r\n\r\n--frontier--\r\n"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(ServiceError) as refused:
        upload_of(request(headers=headers), body)
    assert (refused.value.status, refused.value.reason) == (400, "bad_input")


def test_a_form_of_very_many_parts_is_refused_before_they_are_kept() -> None:
    """A million of them fit a body and took the event loop six seconds."""
    many = form_of([("form-data; name=n", b"")] * 1_000)
    with pytest.raises(ServiceError, match="parts") as refused:
        upload_of(request(headers=FORM), many)
    assert refused.value.status == 400
