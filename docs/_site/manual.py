"""The manual pages as pages of the site: groff formats them, this turns its bold, italics and headings into Markdown.

What never lives here: the text of a manual page, and which pages there are.
"""

from __future__ import annotations

import html
import re
import subprocess
from pathlib import Path

COLUMNS = 92

# grotty without colours prints a letter over itself for bold, and an underline below it for italics.
_STRUCK = re.compile("(?P<bold>(?:(?P<b>.)\b(?P=b))+)|(?P<italic>(?:_\b.)+)|(?P<plain>.)", re.DOTALL)
_HEADING = re.compile(r"( {3})?<b>([^ ].*)</b>")
_OTHER_PAGE = re.compile(r"(?:<(b|i)>)?([a-z][a-z._]*)(?:</\1>)?\((\d)\)")


def markdown(page: Path, known: set[str]) -> str:
    """The Markdown of a manual page; names in it such as ``perfused(8)`` become links where ``known`` has perfused.8.

    Needs groff. Raises subprocess.CalledProcessError where it fails, ValueError with its words where it warns.
    """
    source = page.read_text(encoding="utf-8")
    ragged = re.sub(r"^(\.TH .*)$", r"\1\n.na", source, count=1, flags=re.MULTILINE)
    command = ["groff", "-man", "-Tutf8", "-K", "utf8", "-P-c", "-ww", f"-rLL={COLUMNS}n", "-rHY=0"]
    done = subprocess.run(command, input=ragged, capture_output=True, text=True, encoding="utf-8", check=True)
    if done.stderr:
        raise ValueError(f"{page.name}: {done.stderr.strip()}")
    # The first and the last line are the page's head and foot.
    lines = [_styled(line) for line in done.stdout.strip().splitlines()[1:-1]]
    name, _, section = page.name.rpartition(".")
    return f"# {name}({section})\n\n" + "\n\n".join(_sections(lines, known - {page.name})) + "\n"


def _styled(line: str) -> str:
    """One line of grotty's as HTML."""
    parts = []
    for found in _STRUCK.finditer(line):
        if found["bold"]:
            parts.append(f"<b>{html.escape(found['bold'][::3])}</b>")
        elif found["italic"]:
            parts.append(f"<i>{html.escape(found['italic'][2::3])}</i>")
        else:
            parts.append(html.escape(found["plain"]))
    return re.sub(r"</([bi])>( +)<\1>", r"\2", "".join(parts))


def _sections(lines: list[str], known: set[str]) -> list[str]:
    """Headings and the preformatted blocks between them."""
    blocks: list[str] = []
    block: list[str] = []

    def close() -> None:
        text = "\n".join(block).strip("\n")
        if text:
            blocks.append(f'<pre class="man">{_linked(text, known)}</pre>')
        block.clear()

    for line in lines:
        heading = _HEADING.fullmatch(line)
        if heading:
            close()
            blocks.append(f"{'###' if heading[1] else '##'} {re.sub('<[^>]*>', '', heading[2])}")
        else:
            block.append(line[7:] if line.startswith(" " * 7) else line.lstrip())
    close()
    return blocks


def _linked(text: str, known: set[str]) -> str:
    def link(found: re.Match[str]) -> str:
        page = f"{found[2]}.{found[3]}"
        return f'<a href="{page}.html">{found[0]}</a>' if page in known else found[0]

    return _OTHER_PAGE.sub(link, text)
