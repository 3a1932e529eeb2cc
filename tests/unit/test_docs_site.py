"""The documentation site builds without a warning, is complete, leads nowhere wrong and fetches nothing."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import libperfuse
from wire.codec import CODECS
from wire.init_policy import INIT_POLICY
from wire.opcodes import NOTIFICATIONS, OPCODES

ROOT = Path(__file__).parents[2]
MANUAL = sorted(path.name for path in (ROOT / "docs" / "man").iterdir())
PAGES = sorted(str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md"))
GLUE = {"libc", "libc_build", "stubgen"}
MODULES = [
    (package, path.stem)
    for package in ("libperfuse", "wire")
    for path in sorted((ROOT / package).glob("[!_]*.py"))
    if path.stem not in GLUE
]


class Links(HTMLParser):
    """What a page links to, what it has the browser fetch, and where it can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in ("src", "srcset", "poster", "data", "action") or (name == "href" and tag != "a"):
                self.fetched.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew; every warning is an error."""
    if not find_spec("mkdocs") or not find_spec("mkdocstrings"):
        pytest.skip("mkdocs is not installed")
    if not shutil.which("groff"):
        pytest.skip("no groff")
    where = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(where)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return where


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path) for path in site.rglob("*.html")}


def text(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def test_every_page_of_docs_is_in_the_navigation(site: Path) -> None:
    linked = set(Links(site / "index.html").links)
    assert PAGES
    assert [each for each in PAGES if each not in linked] == []


def test_every_page_of_the_site_is_in_the_navigation(site: Path) -> None:
    linked = {*Links(site / "index.html").links, "index.html", "search.html"}
    assert {str(path.relative_to(site)) for path in site.rglob("*.html")} - linked == set()


def test_no_page_has_the_browser_fetch_anything_from_elsewhere(pages: dict[Path, Links]) -> None:
    fetched = {each for page in pages.values() for each in page.fetched}
    assert fetched
    assert {each for each in fetched if urlsplit(each).scheme or each.startswith("//")} == set()


def test_no_style_sheet_fetches_anything_from_elsewhere(site: Path) -> None:
    sheets = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    fetched = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", sheets)
    assert fetched
    assert [each for each in fetched if re.match(r"(?:https?:)?//", each)] == []


def test_every_link_within_the_site_leads_to_a_page_and_a_place_on_it(pages: dict[Path, Links]) -> None:
    lost = []
    for path, page in pages.items():
        for link in (*page.links, *page.fetched):
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                lost.append(f"{path.name}: {link}")
    assert lost == []


def test_the_home_page_is_the_readme(site: Path) -> None:
    headings = re.findall(r"^##? (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"<h[12][^>]*>(.*?)</h[12]>", text(site, "index.html")) == headings


@pytest.mark.parametrize("name", MANUAL)
def test_every_manual_page_is_shown_with_its_sections(site: Path, name: str) -> None:
    source = (ROOT / "docs" / "man" / name).read_text(encoding="utf-8")
    sections = [each.strip('"') for each in re.findall(r"^\.SH (.+)$", source, flags=re.MULTILINE)]
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", text(site, f"man/{name}.html")) == sections


def test_every_opcode_is_shown_with_its_number(site: Path) -> None:
    shown = re.findall(r'<td>(\d+)</td>\s*<td><span id="([A-Z]\w+)">', text(site, "protocol/opcodes.html"))
    assert [(int(number), name) for number, name in shown] == [(row.number, row.name) for row in OPCODES]


def test_every_notification_is_shown_with_its_code(site: Path) -> None:
    shown = re.findall(r'<td>(\d+)</td>\s*<td><span id="notify-(\w+)">', text(site, "protocol/opcodes.html"))
    assert [(int(number), name) for number, name in shown] == [(row.number, row.name) for row in NOTIFICATIONS]


def test_every_init_flag_is_shown_with_its_bit(site: Path) -> None:
    shown = re.findall(r"<td>(\d+)</td>\s*<td>(\w+)</td>", text(site, "protocol/init-flags.html"))
    assert [(int(bit), name) for bit, name in shown] == [(row.bit, row.name) for row in INIT_POLICY.values()]


def test_the_fields_shown_of_every_struct_fill_it(site: Path) -> None:
    parts = re.split(r'<h2 id="(\w+)">', text(site, "protocol/structs.html"))
    shown = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        cells = r"<td>(\d+)</td>\s*<td><code>\w+</code></td>\s*<td>.*?</td>\s*<td>(\d+)</td>"
        fields = [(int(offset), int(size)) for offset, size in re.findall(cells, body)]
        assert [offset for offset, _ in fields] == [sum(size for _, size in fields[:n]) for n in range(len(fields))]
        shown[name] = sum(size for _, size in fields)
    assert shown == {name: codec.size for name, codec in CODECS.items()}


@pytest.mark.parametrize("module", MODULES, ids=".".join)
def test_every_public_module_has_a_page(site: Path, module: tuple[str, str]) -> None:
    package, name = module
    assert f'id="{package}.{name}"' in text(site, f"reference/{package}/{name}.html")


@pytest.mark.parametrize("name", libperfuse.__all__)
def test_every_name_that_libperfuse_exports_is_described(site: Path, name: str) -> None:
    assert f'id="libperfuse.{name}"' in text(site, "reference/libperfuse/index.html")
