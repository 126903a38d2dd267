import json
import re
import shutil
from collections import defaultdict
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

LOADED_BY = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page links to, what the browser loads for it, and the places in it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors, self.classes = [], [], {""}, set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")} - {None}
        self.classes |= set((attributes.get("class") or "").split())
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if attributes.get(LOADED_BY.get(tag)):
            self.loaded.append(attributes[LOADED_BY[tag]])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def is_elsewhere(address):
    return bool(urlsplit(address).netloc)


@pytest.mark.slow
def test_every_page_of_the_nav_is_built(site, root):
    nav = re.findall(
        r"^ +- .*?([\w/-]+)\.(?:md|ipynb)$", (root / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(nav) >= 20
    assert [name for name in nav if not (site / f"{name}.html").is_file()] == []


def test_nothing_is_loaded_from_elsewhere(pages, site):
    foreign = {(path.name, address) for path, page in pages.items() for address in page.loaded if is_elsewhere(address)}
    assert foreign == set()
    # The theme fetches a script from a CDN where a page has a diagram of this kind.
    assert [path.name for path, page in pages.items() if "mermaid" in page.classes] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    styles += [
        match for path in pages for match in re.findall(r"<style.*?</style>", path.read_text("utf-8"), re.DOTALL)
    ]
    assert styles
    assert [
        found for style in styles for found in re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)\"' ]+", style)
    ] == []


def test_links_and_loaded_files_resolve(pages, site):
    broken = defaultdict(set)
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are of the server's root
        for address in {*page.links, *page.loaded}:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else {unquote(parts.fragment)}
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                broken[path.relative_to(site).as_posix()].add(address)
    assert broken == {}


def test_the_search_knows_pages_and_public_names(site):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    locations = {entry["location"] for entry in entries}
    assert {"quick_start.html", "backbones.html", "api/models.html#any2point_hf.Any2PointConfig"} <= locations
    found = {entry["location"] for entry in entries if "farthest point sampling" in entry["text"].lower()}
    assert "data.html#the-processor" in found


def test_links_of_the_readme_resolve(root):
    links = re.findall(r"\]\(([^)#\s]+)", (root / "README.md").read_text(encoding="utf-8"))
    files = [link for link in links if not is_elsewhere(link)]
    assert len(files) > 5
    assert [link for link in files if not (root / link).exists()] == []


def test_lists_are_lists(site):
    """Python's Markdown wants an empty line before a list, and four spaces before one in a list."""
    texts = {
        path: re.findall(r"<p>.*?</p>", path.read_text(encoding="utf-8"), re.DOTALL) for path in site.rglob("*.html")
    }
    flat = {path.name: [t[:80] for t in found if re.search(r"\n(?:- |\d+\. )", t)] for path, found in texts.items()}
    assert {name: found for name, found in flat.items() if found} == {}


def test_no_code_is_wider_than_its_block(site):
    """Else its end is cut, under the button that copies it."""
    api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium to look at the pages with (apt-get install chromium)")
    read = """all => {
        const style = getComputedStyle(all[0]);
        const cut = all.filter(code => code.scrollWidth > code.clientWidth);
        return [all.length, cut.length, parseInt(style.paddingRight)];
    }"""
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        for name in ("training", "released_models", "results/released-code", "command_line"):
            page.goto((site / f"{name}.html").as_uri())
            blocks, cut, beside = page.eval_on_selector_all("pre > code", read)
            assert blocks >= 1
            assert cut == 0
            assert beside >= 32  # pixels, of the button
        browser.close()
