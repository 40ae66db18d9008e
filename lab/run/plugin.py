"""The pytest plugin: a scenario is an `async def` test that takes the fixture `lab`.

    from lab.run.plugin import topology

    @topology("two-homes")
    async def test_dcutr_replaces_the_relayed_path(lab):
        relay, alice, bob = lab.peers("relay", "alice", "bob")
        …

Each such test runs in a process of its own, forked into a fresh sandbox (user, network, mount and PID namespace), and
sends its reports back. So the tests beside it keep their network, `pytest -n` works as ever, and nothing is left behind
whatever happens. The lab's own failure is an error of the set-up, a peer's is a failure of the test. Evidence lies in
`runs/`; a failing test's report ends with the folder's name.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from lab.errors import Inconclusive, LabError

DEADLINE = 300.0
"Seconds after which a scenario's process is ended, unless its marker says otherwise."


def topology(
    name: str, *, seed: int = 1, deadline: float = DEADLINE, **options: tuple[str, ...]
) -> pytest.MarkDecorator:
    """The network that a test's `lab` is made of: a name in `topologies/` or a path of a TOML file.

    `options` are further arguments for peers' programs: `alice=("--no-dcutr",)`.
    """
    return pytest.mark.topology(name, seed=seed, deadline=deadline, options=options)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a test's marker asks for."""

    name: str
    seed: int = 1
    deadline: float = DEADLINE
    options: Any = None


_INSIDE = pytest.StashKey[bool]()
"Set in the configuration of the forked process."
_RUNNER = pytest.StashKey[asyncio.Runner]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("punchlab")
    group.addoption("--punchlab-runs", default="runs", metavar="DIR", help="where scenarios leave their evidence")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "topology(name, seed=1): the network that the fixture `lab` is made of")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> object:
    """Run a test that takes `lab` in a sandbox of its own."""
    if "lab" not in getattr(item, "fixturenames", ()) or item.config.stash.get(_INSIDE, False):
        return None
    if item.get_closest_marker("topology") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    # The test before kept set up what it shares with this one, and only the forked process took that down.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Await a test that takes `lab` on the loop that its lab lives on."""
    runner = pyfuncitem.stash.get(_RUNNER, None)
    if runner is None:
        return None
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        pytest.fail("a test that takes `lab` is a scenario: write `async def`", pytrace=False)
    names = pyfuncitem._fixtureinfo.argnames
    try:
        runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    except Inconclusive as error:
        pytest.fail(f"INCONCLUSIVE: {error}", pytrace=False)
    return True


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A running lab of the topology that the test's `@topology` names; see `lab.lab.Lab`."""
    from lab.model.topology import load
    from lab.run.evidence import Evidence, new_run
    from lab.run.library import locate
    from lab.run.scenario import laboratory

    wish = _wish(request.node)
    near = [Path(request.node.path).parent, request.config.rootpath / "topologies"]
    root = request.config.rootpath / request.config.getoption("--punchlab-runs")
    # Workers of pytest-xdist start tests in the same second: the folder's last letters must differ.
    chance = random.SystemRandom()
    failure = ""
    try:
        asked = load(locate(wish.name, near))
        folder = new_run(root, request.node.name, time.time(), chance)
    except LabError as error:
        failure = str(error)
    if failure:
        pytest.fail(failure, pytrace=False)
    request.node.user_properties.append(("punchlab-run", str(folder)))
    with asyncio.Runner() as runner:
        request.node.stash[_RUNNER] = runner
        stack = AsyncExitStack()
        try:
            yield runner.run(
                stack.enter_async_context(laboratory(asked, Evidence(folder), seed=wish.seed, options=wish.options))
            )
        except LabError as error:
            pytest.fail(f"INCONCLUSIVE: {error}", pytrace=False)
        finally:
            runner.run(stack.aclose())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Tell where a failing scenario's evidence lies."""
    report = yield
    runs = [value for name, value in item.user_properties if name == "punchlab-run"]
    if report.failed and runs:
        report.sections.append(("punchlab", f"evidence: {runs[0]}\nread it with: punchlab explain {runs[0]}"))
    return report


def _wish(item: pytest.Item) -> _Wish:
    marker = item.get_closest_marker("topology")
    if marker is None:
        pytest.fail("a test that takes `lab` needs @topology('…') to say which network", pytrace=False)
    return _Wish(*marker.args, **marker.kwargs)


def _reports(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    from lab.kernel import sandbox

    problem = sandbox.problem()
    if problem is not None:
        return [_report(item, "setup", "skipped", problem)]

    def inside() -> bytes:
        item.config.stash[_INSIDE] = True
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        to_json = item.config.hook.pytest_report_to_serializable
        return json.dumps([to_json(config=item.config, report=report) for report in reports], default=str).encode()

    try:
        raw = sandbox.fork_into_sandbox(inside, _wish(item).deadline)
    except LabError as error:
        return [_report(item, "call", "failed", f"the scenario's process: {error}")]
    from_json = item.config.hook.pytest_report_from_serializable
    return [from_json(config=item.config, data=_with_tuple(data)) for data in json.loads(raw)]


def _with_tuple(data: dict[str, Any]) -> dict[str, Any]:
    """A report as it was before JSON made a list of the place and reason of a skip."""
    return data | {"longrepr": tuple(data["longrepr"])} if isinstance(data["longrepr"], list) else data


def _report(item: pytest.Item, when: Any, outcome: Any, why: str) -> pytest.TestReport:
    path, line, _ = item.location
    told: Any = (path, (line or 0) + 1, f"Skipped: {why}") if outcome == "skipped" else why
    return pytest.TestReport(item.nodeid, item.location, dict.fromkeys(item.keywords, 1), outcome, told, when)
