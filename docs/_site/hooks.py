"""What mkdocs does beside formatting docs/: adds pages that have no file there, and mends links for the site.

README.md, CHANGELOG.md and the manual pages stand where a reader without the site looks for them, and are linked by
path. Here each becomes a page, and a link to its file a link to that page. What never lives here: text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import manual  # mkdocs lets a hook import its neighbours
import tables
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

SITE = Path(__file__).resolve().parent
ROOT = SITE.parents[1]

#: pages of the site that are files elsewhere: the page -> the file from the top
PAGES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
PAGES |= {f"man/{path.name}.md": f"docs/man/{path.name}" for path in sorted((ROOT / "docs" / "man").iterdir())}

TABLES = {
    "protocol/opcodes.md": tables.opcodes,
    "protocol/init-flags.md": tables.init_flags,
    "protocol/structs.md": tables.structs,
    "protocol/flags.md": tables.other_flags,
}

#: modules without a page: generated, or glue to C
INTERNAL = {"libc", "libc_build", "stubgen"}
#: of the daemon only what a port to another kernel or language would take over or replace
DAEMON = ("engine", "states", "negotiate", "answers", "kernel")

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def modules(package: str) -> list[str]:
    """The public modules of a package, by their full names, the package itself first."""
    names = sorted(path.stem for path in (ROOT / package).glob("[!_]*.py"))
    return [package, *(f"{package}.{name}" for name in names if name not in INTERNAL)]


def reference() -> dict[str, list[str]]:
    """Each package's modules that have a page."""
    daemon = [f"perfused.{name}" for name in DAEMON]
    return {"libperfuse": modules("libperfuse"), "wire": modules("wire"), "perfused": daemon}


def page_of(module: str) -> str:
    """Where the page of a module is: ``wire.codec`` gives ``reference/wire/codec.md``."""
    package, _, name = module.partition(".")
    return f"reference/{package}/{name or 'index'}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the modules to the last section of the navigation."""
    assert config.nav is not None
    (pages,) = config.nav[-1].values()
    pages += [{package: [{each: page_of(each)} for each in names]} for package, names in reference().items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/, and the style sheet."""
    known = {path.name for path in (ROOT / "docs" / "man").iterdir()}
    for page, path in PAGES.items():
        if path.startswith("docs/man/"):
            _add(files, config, page, manual.markdown(ROOT / path, known))
        else:
            _add(files, config, page, (ROOT / path).read_text(encoding="utf-8"))
    for page, made in TABLES.items():
        _add(files, config, page, made())
    for names in reference().values():
        for each in names:
            _add(files, config, page_of(each), _module(each))
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    _add(files, config, "site.css", (SITE / "site.css").read_text(encoding="utf-8") + colours)
    return files


def _add(files: Files, config: MkDocsConfig, name: str, content: str) -> None:
    files.append(File.generated(config, name, content=content))


def _module(name: str) -> str:
    """The page of a module: its docstrings; for the derived codecs, whose names no source has, where their table is."""
    if name != "wire.codec":
        return f"::: {name}\n"
    where = "The codecs and their NamedTuples are listed under [structs](../../protocol/structs.md)."
    return f"::: {name}\n    options:\n      members: [order]\n\n{where}\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the project into links to their pages; a file without a page is named, not linked."""
    source = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {path: name for name, path in PAGES.items()}

    def mend(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["target"]))
        if "://" in found["target"] or not (ROOT / path).exists():
            return found[0]
        name = pages.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(name) is None:
            return found["text"]
        target = posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{found['text']}]({target}{found['anchor'] or ''})"

    return _LINK.sub(mend, markdown)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Leave out the theme's pages for a web server, which suppose that the site is at the top of a known host."""
    return "" if template_name in ("404.html", "sitemap.xml") else output_content
