"""docs/performance.svg from bench/results.json: `plot.py RESULTS SVG`, run by the interpreter that has matplotlib.

It knows the results' shape alone and imports nothing of the bench.
"""

import json
import statistics
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "perfused", "svg.fonttype": "none", "font.size": 9}
import matplotlib.pyplot as plt  # noqa: E402

#: panels: title, part of the results, work, divisor of nanoseconds, unit
PANELS = (
    ("getattr, not cached", "small", "getattr", 1e3, "µs"),
    ("4 KiB read, direct", "small", "4 KiB read", 1e3, "µs"),
    ("1 MiB read, direct", "small", "1 MiB read", 1e3, "µs"),
    ("a tree: create and unlink", "trees", "create, unlink", 1e3, "µs"),
    ("a tree: 1 MiB read, page cache", "trees", "1 MiB read, page cache", 1e3, "µs"),
    ("a tree: unpack and compile", "compile", "unpack, compile", 1e9, "s"),
)
BEHIND = ("socket", "device", "direct", "ring")


def colour(name):
    """Behind perfused, ours without it, or others'."""
    last = name.split(", ")
    if any(each in BEHIND for each in last):
        return "#2a6f97"
    return "#89c2d9" if last[0] in ("libperfuse", "loopback") else "#b8b8b8"


def panel(axes, title, row, divisor, unit):
    """Bars: medians, with the middle half of the rounds."""
    names = list(row)[::-1]
    middles, low, high = [], [], []
    for name in names:
        times = [each / divisor for each in row[name]["times"]]
        first, middle, third = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
        middles.append(middle)
        low.append(middle - first)
        high.append(third - middle)
    axes.barh(names, middles, xerr=(low, high), color=list(map(colour, names)), ecolor="#404040", capsize=2)
    axes.set_title(f"{title}, {unit}", loc="left")
    axes.set_xlim(0, max(middles) * 1.25)
    for at, middle in enumerate(middles):
        shown = f"{middle:.0f}" if middle >= 100 else f"{middle:.3g}"
        axes.text(middle + high[at] + max(middles) * 0.015, at, shown, va="center", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        kept = json.load(file)["one core"]
    rows = [(*each, kept.get(each[1], {}).get(each[2], {})) for each in PANELS]
    rows = [each for each in rows if each[-1]]
    figure, axes = plt.subplots((len(rows) + 1) // 2, 2, figsize=(11, 2.9 * ((len(rows) + 1) // 2)), squeeze=False)
    flat = axes.flatten()
    for each, (title, _, _, divisor, unit, row) in zip(flat, rows, strict=False):
        panel(each, title, row, divisor, unit)
    for each in flat[len(rows) :]:
        each.set_visible(False)
    figure.suptitle("One core, medians; less is better. Dark: behind perfused; light: ours without; grey: others")
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
