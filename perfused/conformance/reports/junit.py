"""JUnit XML, as CI systems read it: a suite a group of cases."""

import re
from xml.etree import ElementTree

from perfused.conformance.findings import UNEXPECTED, Report, Verdict

#: what XML 1.0 cannot hold
_CONTROL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(value: str) -> str:
    return _CONTROL.sub("\ufffd", value)


def junit(report: Report) -> bytes:
    """A whole run, in UTF-8. XFAIL counts as skipped, XPASS as a failure."""
    root = ElementTree.Element("testsuites", name=_text(f"{report.suite}: {report.name}"))
    groups: dict[str, ElementTree.Element] = {}
    for each in report.findings:
        suite = groups.get(each.group)
        if suite is None:
            suite = groups[each.group] = ElementTree.SubElement(root, "testsuite", name=_text(each.group))
        case = ElementTree.SubElement(
            suite, "testcase", classname=_text(f"{report.suite}.{each.group}"), name=_text(each.id),
            time=f"{each.seconds:.3f}",
        )  # fmt: skip
        if each.verdict in (Verdict.SKIP, Verdict.HOST, Verdict.XFAIL):
            ElementTree.SubElement(case, "skipped", message=_text(each.reason or each.message))
        elif each.verdict in UNEXPECTED:
            failure = ElementTree.SubElement(
                case, "failure", type=str(each.verdict), message=_text(each.message or each.reason)
            )
            failure.text = _text("\n".join([*each.details, *([each.repeat] if each.repeat else [])]))
    for suite in groups.values():
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
        suite.set("errors", "0")
        suite.set("time", f"{sum(float(each.get('time', 0)) for each in suite):.3f}")
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
