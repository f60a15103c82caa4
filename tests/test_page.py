"""The page in a real browser: a photo goes in, boxes come out, the slider changes the bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from background_service import BackgroundService, serve_in_background

import cdvision
from cdvision.results.masks import mask_runs

pytest.importorskip("fastapi")
pytest.importorskip("playwright")

from playwright import sync_api
from toy_family import registered, write_toy

from cdvision.serving.settings import ServiceSettings

TINY = str(Path(__file__).parent / "packages" / "test-dicm-re")
SYSTEM_BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
PATIENCE = 120_000  # ms: a busy machine takes its time
WIDE, PHONE = {"width": 1200, "height": 1000}, {"width": 390, "height": 844}
# Where screenshots go, for looking at them; nowhere by default.
SCREENSHOTS = os.environ.get("CDVISION_SCREENSHOTS")


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundService]:
    with serve_in_background(ServiceSettings(models=("small", TINY), threads=1)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    found = next((path for name in SYSTEM_BROWSERS if (path := shutil.which(name))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium here: {error.message.splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture
def page(browser: sync_api.Browser, server: BackgroundService) -> Iterator[sync_api.Page]:
    """Open the page; a request elsewhere or an error in the console fails the test."""
    wrong: list[str] = []
    context = browser.new_context(viewport=WIDE)
    context.set_default_timeout(PATIENCE)
    opened = context.new_page()
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
    local = (server.url, "blob:", "data:")
    opened.on(
        "request", lambda asked: None if asked.url.startswith(local) else wrong.append(asked.url)
    )
    opened.goto(server.url)
    yield opened
    context.close()
    assert wrong == []


def shoot(page: sync_api.Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / name, full_page=True)


def bytes_shown(page: sync_api.Page) -> int:
    return int(page.locator("#bytes").inner_text().replace(",", ""))


def test_a_photo_is_encoded_and_its_boxes_follow_the_slider(
    page: sync_api.Page, model: cdvision.Model, photos: list[Path], tmp_path: Path
) -> None:
    photo = photos[1]
    page.set_input_files("#file", photo)
    page.wait_for_selector("#bars li:nth-child(3)")  # picture codecs come last
    expected = model.encode(photo)
    assert bytes_shown(page) == len(expected)
    names = [found.class_name for found in model.detect(expected)]
    shown = page.locator(".box span").all_inner_texts()
    assert sorted(text.rsplit(" ", 1)[0] for text in shown) == sorted(names)
    best = model.classify(expected).best.class_name
    assert page.locator("#answers b").first.inner_text() == best
    assert "Layer 0" in page.locator("#parts").inner_text()
    assert "Encode" in page.locator("#times").inner_text()
    shoot(page, "page.png")

    page.locator("#quality").focus()
    page.keyboard.press("Home")  # the keyboard alone is enough
    smallest = len(model.encode(photo, quality=1))
    sync_api.expect(page.locator("#bytes")).to_have_text(f"{smallest:,}", timeout=PATIENCE)
    with page.expect_download() as begun:
        page.locator("#download").click()
    begun.value.save_as(tmp_path / "got.cdv")
    assert begun.value.suggested_filename == f"{photo.stem}-q1.cdv"
    assert (tmp_path / "got.cdv").read_bytes() == model.encode(photo, quality=1)

    page.set_viewport_size(PHONE)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(overflow) <= 0
    shoot(page, "phone.png")
    page.emulate_media(color_scheme="dark")
    shoot(page, "phone-dark.png")


def test_a_stream_shows_its_boxes_without_a_photo_and_masks_where_the_model_has_them(
    page: sync_api.Page, photos: list[Path], tmp_path: Path
) -> None:
    tiny = cdvision.load(TINY)
    masks = tiny.segment(tiny.encode(photos[1], size=224))
    assert len(masks) > 0
    bits = tmp_path / "cat.cdv"
    bits.write_bytes(tiny.encode(photos[1], size=224))
    page.set_input_files("#file", bits)
    page.wait_for_selector(".box", state="attached")
    assert page.locator(".box").count() == len(masks)
    assert page.locator("#model").input_value() == "test-dicm-re"  # the stream says which
    assert page.locator("#quality").is_disabled()
    assert page.locator("#blank").is_visible()
    runs = page.evaluate(
        "(counts) => runsOf(counts)", masks.to_dict()["detections"][0]["mask"]["counts"]
    )
    assert runs == mask_runs(masks.mask[0]).tolist()
    assert page.evaluate("document.getElementById('masks').width") > 0


def test_a_task_that_no_product_file_knows_is_shown_as_rows(
    browser: sync_api.Browser, photos: list[Path], tmp_path: Path
) -> None:
    with (
        registered(),
        serve_in_background(
            ServiceSettings(models=(str(write_toy(tmp_path / "toy")),), threads=1)
        ) as running,
    ):
        toy = running.service.models.default
        bits = tmp_path / "photo.cdv"
        bits.write_bytes(toy.encode(photos[0], size=64))
        page = browser.new_page()
        page.goto(running.url)
        page.set_input_files("#file", bits)
        page.wait_for_selector("#answers li", timeout=PATIENCE)
        assert page.locator("#answers h2").all_inner_texts() == ["Lightness"]
        (row,) = toy.open(bits.read_bytes()).ask("lightness").to_rows()
        assert page.locator("#answers b").all_inner_texts() == ["lightness"]
        (figure,) = page.locator("#answers .row span").all_inner_texts()
        assert figure == f"{row['level']:.0f}"
        share = "{task: {column: {name: 'x', kind: 'x', fields: {y: 'float'}}}, values: {y: 0.25}}"
        shown = page.evaluate(f"() => answerCard({share}).querySelector('.row span').textContent")
        assert shown == "25.0 %"  # what is 1 at most is a share
        assert "Decode and lightness" in page.locator("#times").inner_text()
        shoot(page, "toy.png")
        page.close()


def test_what_is_neither_photo_nor_stream_is_told_on_the_page(
    browser: sync_api.Browser, server: BackgroundService, tmp_path: Path
) -> None:
    wrong = tmp_path / "notes.txt"
    wrong.write_text("not a photo")
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(server.url)
    page.set_input_files("#file", wrong)
    page.wait_for_selector("#alert:not([hidden])")
    assert "expected an image file" in page.locator("#alert").inner_text()
    context.close()


def test_a_failed_upload_leaves_nothing_of_the_last_stream(
    browser: sync_api.Browser, server: BackgroundService, photos: list[Path], tmp_path: Path
) -> None:
    wrong = tmp_path / "notes.txt"
    wrong.write_text("not a photo")
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(server.url)
    page.set_input_files("#file", photos[1])
    page.wait_for_selector("#bars li:nth-child(3)")
    assert "At equal accuracy" in page.locator("#scale").inner_text()
    assert page.locator("#download").get_attribute("href")
    page.set_input_files("#file", wrong)
    page.wait_for_selector("#alert:not([hidden])")
    assert page.locator("#work").is_hidden()
    assert page.locator("#download").get_attribute("href") is None
    assert page.locator("#bars li").count() == 0
    assert page.locator("#bytes").text_content() == "0"
    page.set_input_files("#file", photos[1])
    page.wait_for_selector("#bars li:nth-child(3)")
    assert page.locator("#work").is_visible()
    context.close()
