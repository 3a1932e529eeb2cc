"""Reports of what a suite found, made of `findings` alone: TAP 14, JUnit XML, and a page to look at.

JSON is `Report.as_json`. They need nothing but Python's own library.
"""

from perfused.conformance.reports.html import html
from perfused.conformance.reports.junit import junit
from perfused.conformance.reports.tap import tap, tap_line

__all__ = ["html", "junit", "tap", "tap_line"]
