"""The page as people meet it: in Chromium, from a disk, by mouse and keyboard, narrow and wide, light and dark."""

import json
from itertools import pairwise

import pytest

from sam_pipeline.cli.commands import main
from sam_pipeline.results.results import Results
from sam_pipeline.results.review import read_review
from tests.report.picture_runs import HOSTILE, write_picture_run

NAMES = [f"{number:02}.png" for number in range(6)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_picture_run(tmp_path_factory.mktemp("run"), NAMES, with_prompts=True, num_failed=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_the_window_in_both_schemes(run, html_of, open_page, width, scheme):
    page = open_page(html_of(run), width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("figure.card").count() == 5
    assert page.locator("figure.chart").count() == 9
    paper, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert (brightness(paper) > brightness(ink)) == (scheme == "light")
    assert contrast(paper, ink) > 10
    muted = page.locator(".hint").first.evaluate("e => getComputedStyle(e).color")
    accent = page.locator("nav a").first.evaluate("e => getComputedStyle(e).color")
    assert min(contrast(paper, muted), contrast(paper, accent)) > 4.5  # WCAG AA
    # The picture itself is there, not only its place.
    assert page.locator("figure.card image").first.evaluate("e => e.getBBox().width") > 100
    assert page.locator(".boxes rect").first.evaluate("e => getComputedStyle(e).strokeDasharray") != "none"


def channels(color):
    return [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def brightness(color):
    """Relative luminance, as WCAG 2 defines it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels(color)]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


def contrast(one, other):
    dark, light = sorted([brightness(one), brightness(other)])
    return (light + 0.05) / (dark + 0.05)


def test_a_mask_under_the_pointer_is_highlighted_and_shows_its_numbers(run, html_of, open_page):
    page = open_page(html_of(run))
    card = page.locator("figure.card").first
    path = card.locator(".masks path").last
    path.scroll_into_view_if_needed()
    path.hover()
    assert "active" in path.get_attribute("class")
    assert "predicted IoU" in card.locator(".at").inner_text()
    page.locator("h1").hover()
    assert card.locator(".at").inner_text() == ""


def test_the_keyboard_reaches_everything(run, html_of, open_page):
    page = open_page(html_of(run))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    card = page.locator("figure.card").first
    card.locator(".picture").focus()
    page.keyboard.press("ArrowRight")
    first = card.locator(".at").inner_text()
    assert first.startswith("Mask ")
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert card.locator(".at").inner_text() == first
    outline = card.locator(".picture").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Escape")
    assert card.locator(".at").inner_text() == ""


def test_a_screen_reader_finds_landmarks_names_and_captions(run, html_of, open_page):
    page = open_page(html_of(run, is_review=True))
    for role in ("banner", "main", "contentinfo", "navigation", "complementary"):
        assert page.get_by_role(role).count() == 1
    names = page.evaluate(
        """[...document.querySelectorAll('svg[role=img], [role=group], [role=region], nav, aside')]
        .map(e => e.getAttribute('aria-label'))"""
    )
    assert all(names)
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.caption && t.caption.textContent)")
    assert page.evaluate("[...document.querySelectorAll('input')].every(i => i.labels.length)")
    assert (
        page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size")
        == page.locator("[id]").count()
    )
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_a_slider_says_what_a_threshold_keeps(run, html_of, open_page):
    page = open_page(html_of(run))
    figure = page.locator("figure.curve").first
    figure.locator("input").fill("0.95")
    kept = [
        count
        for rows in Results.open(run, {}).tables(["masks"])
        for masks in rows["masks"].to_pylist()
        for count in [sum(mask["predicted_iou"] > 0.95 for mask in masks)]
    ]
    words = figure.locator("output").inner_text()
    assert words.startswith(f"0.95 keeps {sum(kept)} masks")
    assert f"in {sum(count > 0 for count in kept)} images" in words
    assert "--pred-iou-thresh 0.95" in figure.locator(".command").inner_text()


def test_masks_labels_and_boxes_are_switched_off(run, html_of, open_page):
    page = open_page(html_of(run))
    for switch, inside in (("Masks", ".masks"), ("Labels", ".labels"), ("Boxes of prompts", ".boxes")):
        layer = page.locator(f"figure.card {inside}").first
        assert layer.is_visible()
        page.get_by_label(switch, exact=True).uncheck()
        assert not layer.is_visible()


def saved(page, tmp_path):
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the review").click()
    download.value.save_as(path := tmp_path / download.value.suggested_filename)
    return path


def test_what_is_ticked_is_saved_as_a_review(run, html_of, open_page, tmp_path):
    page = open_page(html_of(run, is_review=True))
    cards = page.locator("figure.card")
    cards.nth(1).get_by_label("Keep image 1").uncheck()
    picture = cards.nth(0).locator(".picture")
    picture.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert cards.nth(0).locator(".at").inner_text().startswith("Dropped.")
    path = cards.nth(2).locator(".masks path").last
    path.scroll_into_view_if_needed()
    path.click()
    cards.nth(3).locator("summary").click()
    cards.nth(3).locator("li input").nth(2).uncheck()
    assert page.locator("#review-count").inner_text() == "1 image and 3 masks dropped"
    review = read_review(str(saved(page, tmp_path)), {})
    rows = [
        row
        for table in Results.open(run, {}).tables(["image_id", "uri", "num_masks", "masks"])
        for row in review.apply(table).rows.to_pylist()
    ]
    assert {row["image_id"]: row["num_masks"] for row in rows} == {0: 3, 2: 3, 3: 3, 4: 4, 5: 0}
    largest = max(
        mask["area"]
        for table in Results.open(run, {}).tables(["masks"], last_id=0)
        for mask in table["masks"].to_pylist()[0]
    )
    assert largest not in [mask["area"] for mask in rows[0]["masks"]]
    page.reload()
    assert page.locator("#review-count").inner_text() == "1 image and 3 masks dropped"
    page.get_by_role("button", name="Keep all").click()
    assert not read_review(str(saved(page, tmp_path)), {}).dropped_masks


def test_what_is_dropped_in_one_page_of_a_run_outlives_another(run, html_of, open_page, tmp_path):
    first, second = (
        html_of(run, is_review=True, selection={"include": names}) for names in (["0[0-2].png"], ["0[2-4].png"])
    )
    page = open_page(first)
    page.get_by_label("Keep image 1").uncheck()
    page.get_by_label("Keep image 2").uncheck()
    (tmp_path / "second.html").write_text(second)
    page.goto((tmp_path / "second.html").as_uri())
    assert page.locator("#review-count").inner_text() == "1 image and 0 masks dropped"
    page.get_by_role("button", name="Keep all").click()
    page.go_back()
    assert page.locator("#review-count").inner_text() == "1 image and 0 masks dropped"
    assert not page.get_by_label("Keep image 1").is_checked()


def test_what_is_dropped_is_of_a_uri_and_not_of_a_number(run, html_of, open_page, tmp_path):
    html = html_of(run, is_review=True)
    page = open_page(html)
    page.get_by_label("Keep image 1").uncheck()
    (tmp_path / "other.html").write_text(html.replace("01.png", "else.png"))
    page.goto((tmp_path / "other.html").as_uri())
    assert page.locator("#review-count").inner_text() == "Nothing dropped"


def test_an_export_leaves_out_what_was_dropped(run, html_of, open_page, tmp_path, capsys):
    page = open_page(html_of(run, is_review=True))
    page.get_by_label("Keep image 1").uncheck()
    page.locator("figure.card").nth(0).locator(".picture").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    review = saved(page, tmp_path)
    (tmp_path / "names.txt").write_text("cat\ndog\ncup\n")
    flags = ["--format", "coco", "--reviewed", str(review), "--categories", str(tmp_path / "names.txt")]
    with pytest.raises(SystemExit) as caught:
        main(["export", run, str(tmp_path / "coco"), *flags])
    assert caught.value.code == 0, capsys.readouterr().err
    annotations = json.loads((tmp_path / "coco" / "annotations.json").read_text())["annotations"]
    assert len(annotations) == 5 * 4 - 4 - 1


def test_hostile_names_are_text(html_of, open_page, tmp_path):
    output = write_picture_run(tmp_path / HOSTILE[1], HOSTILE, with_prompts=True, num_failed=2, categories=HOSTILE)
    html = html_of(output, categories=str(tmp_path / HOSTILE[1] / "names.json"), is_review=True)
    page = open_page(html, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    text = page.locator("body").inner_text()
    assert "{{ 7 * 7 }}{% raw %}.png" in text
    assert "&lt;b&gt; ]]> --> <!--.png" in text
    assert "\u202e" not in html.split("page-data")[0]
    assert "\x1b" not in html
    assert {entry["uri"] for entry in json.loads(saved(page, tmp_path).read_text())["images"]} <= {
        uri for rows in Results.open(output, {}).tables(["uri"]) for uri in rows["uri"].to_pylist()
    }


@pytest.mark.parametrize(
    "foreign",
    [
        "<script>document.title = 'taken'</script>",
        "<p onclick=\"document.title = 'taken'\" id=foreign>x</p><style>p { color: red }</style>",
        "<img src=x onerror=\"document.title = 'taken'\">",
        "<iframe src='data:text/html,x'></iframe>",
    ],
)
def test_the_browser_obeys_nothing_that_is_not_ours(run, html_of, open_page, complaints, foreign):
    page = open_page(html_of(run).replace("</main>", f"{foreign}</main>"))
    if "onclick" in foreign:
        page.locator("#foreign").click()
    assert page.title() != "taken"
    assert complaints
    assert all("Content Security Policy" in complaint for complaint in complaints)
    complaints.clear()


def test_without_a_script_the_figures_and_pictures_are_there(run, html_of, open_page):
    page = open_page(html_of(run), java_script_enabled=False)
    assert page.locator("figure.card image").count() == 5
    assert page.locator("figure.card").first.locator("path title").count() == 4


def test_it_prints(run, html_of, open_page):
    page = open_page(html_of(run))
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert not page.locator(".switches").is_visible()
    assert page.locator("figure.card image").first.is_visible()
    assert len(page.pdf()) > 20_000
