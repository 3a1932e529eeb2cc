"""Why a target is missed, by the words of the target (`targets`). Written by hand; one that is met shows none.

In the place of a reason, nothing: the page then says that there is none yet.
"""

REASONS: dict[str, str] = {
    "mfusepy ÷ libperfuse, 1 MiB read": "",
}
