"""The results of a matrix of implementations as JUnit XML, which CI systems show: a suite a check, a test a setup.

FAILED is a failure, INCONCLUSIVE an error (the lab's), UNSUPPORTED and a failure that is known are skipped. A flaky
test passed, and says so in its output.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

from lab.model.interop import Check, arguments_for
from lab.model.runner import PROCESS
from lab.report.interop import Finding, Results
from lab.report.results import Mark

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"what XML 1.0 cannot hold, and a peer's stderr can"


def junit(results: Results) -> str:
    """The text of `junit.xml`."""
    root = Xml.Element("testsuites", name="punchlab", time=f"{results.seconds:.1f}")
    for check in Check:
        found = [finding for finding in results.findings if finding.outcome.check is check]
        if found:
            root.append(_suite(check, found, results))
    Xml.indent(root)
    return Xml.tostring(root, "unicode", xml_declaration=True) + "\n"


def _suite(check: Check, found: list[Finding], results: Results) -> Xml.Element:
    cases = [_case(finding, results) for finding in found]
    counts = {name: str(sum(case.find(tag) is not None for case in cases)) for name, tag in _COUNTED.items()}
    suite = Xml.Element("testsuite", {"name": check.value, "tests": str(len(cases)), **counts})
    properties = Xml.SubElement(suite, "properties")
    Xml.SubElement(properties, "property", name="runner", value=results.runner)
    suite.extend(cases)
    return suite


_COUNTED = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def _case(finding: Finding, results: Results) -> Xml.Element:
    check, outcome = finding.outcome.check, finding.outcome
    # Systems that follow a test from run to run know it by its name: in a container it is another one.
    kind = "" if results.runner == PROCESS else f"{results.runner}."
    name = f"punchlab.{kind}{check.value}"
    case = Xml.Element("testcase", classname=name, name=str(finding.setup), time=f"{outcome.seconds or 0:.3f}")
    why = _clean(outcome.why)
    match outcome.mark:
        case Mark.FAILED if finding.known is not None:
            Xml.SubElement(case, "skipped", message=_clean(f"known failure: {finding.known.reason}: {why}"))
        case Mark.FAILED:
            again = f"{why}\nrepeat it: {repeat_command(finding, results)}\nevidence: {finding.evidence}"
            Xml.SubElement(case, "failure", message=why).text = again
        case Mark.INCONCLUSIVE:
            Xml.SubElement(case, "error", message=why).text = why
        case Mark.UNSUPPORTED:
            Xml.SubElement(case, "skipped", message=why)
    if finding.flaky:
        told = f"flaky: {finding.first.mark.value} beside others, PASSED alone: {finding.first.why}"
        Xml.SubElement(case, "system-out").text = _clean(told)
    if finding.cured:
        Xml.SubElement(case, "system-out").text = "known to fail, and passed"
    return case


def repeat_command(finding: Finding, results: Results) -> str:
    """The one command that tries a check of a setup again, with peers run as they were."""
    words = arguments_for(finding.setup, finding.outcome.check)
    words += ["--seed", str(results.seed)] if results.seed != 1 else []
    words += ["--runner", results.runner] if results.runner != PROCESS else []
    return " ".join(["punchlab matrix", *words])


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
