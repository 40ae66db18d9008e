"""Results of a matrix of implementations: read back as written, told in every form, joined, and never made better."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from lab.cli import main
from lab.errors import LabError
from lab.model.interop import Check, Scene, Selection, Setup, Stack
from lab.model.runner import CONTAINER, PROCESS
from lab.report.badge import badge_json, badge_svg
from lab.report.interop import (
    Attempt,
    Cell,
    Implementation,
    Known,
    Outcome,
    Results,
    is_interop,
    load,
    results_from_json,
    results_to_json,
)
from lab.report.interop_text import grids, markdown, problems, summary
from lab.report.interopdoc import insert, marks, page, punches_page, short_punches, short_table
from lab.report.junit import junit
from lab.report.punch_grids import punch_counts, punch_grids
from lab.report.results import Machine, Mark
from lab.run.evidence import ORDER, find_run
from lab.run.interop import JOURNAL, Order, Shard, begin, order_of, resume, write_results
from lab.run.merge import merge

TCP = Stack("tcp", "noise", "yamux")
JS = Known(Check.ECHO, "js-echo", "js|echoes nothing", "docs/interop.md#echo")


def setup(dialer: str, listener: str) -> Setup:
    return Setup(Scene.TALK, dialer, listener, TCP)


def cell(dialer: str, listener: str, *marks: Mark, known: tuple[Known, ...] = ()) -> Cell:
    """A cell whose echo came out so in one attempt after the other, and whose connect always passed."""
    connected = Outcome(Check.CONNECT, Mark.PASSED, "", 0.1)
    attempts = tuple(
        Attempt(
            (connected, Outcome(Check.ECHO, mark, "" if mark is Mark.PASSED else "no\x00\x1b<b>")),
            2.0,
            alone=number > 0,
            evidence="cells/there",
        )
        for number, mark in enumerate(marks)
    )
    return Cell(setup(dialer, listener), attempts, known)


def results(*cells: Cell, planned: int | None = None, shard: str = "", runner: str = PROCESS) -> Results:
    return Results(
        run="20251125-101010-interop-ab12",
        started=1_763_719_000.0,
        seconds=12.5,
        machine=Machine(2, "Debian GNU/Linux 12", "6.18", "3.11.2", "0.1.0"),
        seed=1,
        mode="cover",
        runner=runner,
        shard=shard,
        planned=len(cells) if planned is None else planned,
        implementations=(Implementation("go", "go-libp2p", "0.51.0"), Implementation("js", "", "")),
        cells=cells,
    )


GOOD = cell("go", "js", Mark.PASSED)
FLAKY = cell("go", "go", Mark.FAILED, Mark.PASSED)
BAD = cell("js", "go", Mark.FAILED, Mark.FAILED)
AS_KNOWN = cell("js", "js", Mark.FAILED, known=(JS,))
CURED = cell("js", "py", Mark.PASSED, known=(JS,))
BROKEN = cell("py", "py", Mark.INCONCLUSIVE, Mark.INCONCLUSIVE)
EVERYTHING = results(GOOD, FLAKY, BAD, AS_KNOWN, CURED, BROKEN, planned=7)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_results(tmp_path, EVERYTHING)
    assert load(tmp_path) == EVERYTHING
    assert is_interop(tmp_path)
    assert json.loads((tmp_path / "badge.json").read_text())["color"] == "red"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"kind": "interop", "format": 99}'])
def test_nothing_else_is_taken_for_results(text: str) -> None:
    with pytest.raises(LabError):
        results_from_json(text)


@pytest.mark.parametrize(
    ("cells", "ok"),
    [
        ((GOOD,), True),
        ((FLAKY,), True),
        ((AS_KNOWN,), True),
        ((CURED,), True),
        ((BAD, GOOD), False),
        ((BROKEN,), False),
    ],
)
def test_all_is_well_only_if_nothing_failed_that_was_not_known_to(cells: tuple[Cell, ...], ok: bool) -> None:
    assert results(*cells).ok is ok


def test_a_run_that_was_interrupted_is_not_well() -> None:
    assert not results(GOOD, planned=2).ok
    assert "1 of 2 left" in summary(results(GOOD, planned=2))


def test_people_are_told_what_failed_and_how_to_repeat_it_what_is_flaky_and_what_is_known() -> None:
    told = problems(EVERYTHING)
    assert [line.partition(":")[0].strip() for line in told] == [
        *("FLAKY", "FAILED", "again", "INCONCLUSIVE", "again", "KNOWN"),
    ]
    assert told[2].strip() == (
        "again: punchlab matrix --check echo --dialer js --listener go --transport tcp --security noise --muxer yamux"
    )
    assert "1 of 2 failed" in told[-1]
    assert problems(results(CURED))[0].startswith("CURED: js-echo")


def test_markdown_holds_whatever_a_peer_says() -> None:
    text = markdown(EVERYTHING)
    assert "go-libp2p 0.51.0, js: no peer here" in text
    assert "<b>" not in text
    assert all(line.startswith("|") == line.endswith("|") for line in text.splitlines() if line)


def test_junit_tells_failures_errors_and_what_was_left_out() -> None:
    root = Xml.fromstring(junit(EVERYTHING))  # noqa: S314 -- our own text
    suites = {suite.get("name"): suite for suite in root}
    echo = suites["echo"]
    counts = [echo.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["6", "1", "1", "1"]
    cases = {case.get("name"): case for case in echo}
    (failure,) = (case.find("failure") for case in cases.values() if case.find("failure") is not None)
    assert failure is not None
    assert "repeat it: punchlab matrix --check echo" in str(failure.text)
    assert "flaky" in str(cases[f"{FLAKY.setup}"].findtext("system-out"))
    assert suites["connect"].get("failures") == "0"


def test_whoever_ran_in_containers_is_told_so_everywhere_and_is_tried_again_so() -> None:
    contained = results(GOOD, BAD, runner=CONTAINER)
    assert json.loads(results_to_json(contained))["runner"] == "container"
    assert summary(contained).endswith("2 labs in 12.5 s, peers in containers")
    assert [grid.title for grid in grids(contained)] == [
        *("connect, ping: tcp+noise+yamux, in containers", "echo, in containers"),
    ]
    assert "connect, ping, in containers |" in markdown(contained)
    assert "connect, echo: every pair of values, in containers" in page([contained])
    assert problems(contained)[1].strip() == (
        "again: punchlab matrix --check echo --dialer js --listener go --transport tcp --security noise --muxer yamux"
        " --runner container"
    )
    root = Xml.fromstring(junit(contained))  # noqa: S314 -- our own text
    assert {made.get("value") for made in root.iter("property")} == {"container"}
    assert {case.get("classname") for case in root.iter("testcase")} == {
        *("punchlab.container.connect", "punchlab.container.echo"),
    }
    (failure,) = root.iter("failure")
    assert "--runner container\n" in str(failure.text)


def test_processes_are_told_without_more_ado() -> None:
    assert summary(EVERYTHING).endswith("s, peers as processes; 1 of 7 left")
    assert "container" not in junit(EVERYTHING) + markdown(EVERYTHING)
    assert not any("--runner" in line for line in problems(EVERYTHING))


def test_results_of_before_there_was_a_choice_are_of_processes() -> None:
    value = json.loads(results_to_json(EVERYTHING))
    del value["runner"]
    assert results_from_json(json.dumps({**value, "format": 1})) == EVERYTHING
    for broken in (value, {**value, "runner": "podman"}):
        with pytest.raises(LabError, match="runner"):
            results_from_json(json.dumps(broken))


def test_what_was_not_built_because_an_image_was_not_heard_is_one_line() -> None:
    silent = Outcome(Check.CONNECT, Mark.INCONCLUSIVE, "js: it does not start")
    cells = [Cell(setup("js", other), (Attempt((silent,), 0.0),)) for other in ("go", "js", "py")]
    told = problems(results(GOOD, *cells, runner=CONTAINER))
    assert told == ["INCONCLUSIVE: 3 checks that were not made: js: it does not start"]


def test_the_badge_counts_what_passed() -> None:
    assert json.loads(badge_json(results(GOOD, AS_KNOWN)))["message"] == "3/4"
    assert json.loads(badge_json(results(GOOD, AS_KNOWN)))["color"] == "yellow"
    assert json.loads(badge_json(results(GOOD)))["color"] == "brightgreen"
    picture = Xml.fromstring(badge_svg(results(GOOD)))  # noqa: S314 -- our own text
    assert picture.tag.endswith("svg")


def saved(folder: Path, name: str, what: Results) -> Path:
    path = folder / name
    path.mkdir()
    write_results(path, what)
    return path


def test_shards_are_merged_into_one_and_evidence_is_found_from_there(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", results(GOOD, shard="1/2"))
    two = saved(tmp_path, "two", replace(results(BAD, FLAKY, shard="2/2"), seconds=20.0))
    into = tmp_path / "merged"
    into.mkdir()
    both = merge([one, two], into)
    assert {each.setup for each in both.cells} == {GOOD.setup, BAD.setup, FLAKY.setup}
    assert (both.complete, both.seconds, both.shard) == (True, 20.0, "")
    assert {each.evidence for each in both.findings} == {"../one/cells/there", "../two/cells/there"}


def test_merged_runs_took_the_time_in_which_any_of_them_ran(tmp_path: Path) -> None:
    one = results(GOOD)
    beside = replace(results(BAD), started=one.started + 5, seconds=5.0)
    later = replace(results(FLAKY), started=one.started + 100, seconds=30.0)
    parts = [saved(tmp_path, str(number), each) for number, each in enumerate((later, one, beside))]
    assert merge(parts, tmp_path).seconds == pytest.approx(42.5)


def test_a_shard_that_is_missing_leaves_the_whole_unfinished(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", results(GOOD, shard="1/2"))
    assert not merge([one], tmp_path).complete


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", results(GOOD))
    with pytest.raises(LabError, match="more than one"):
        merge([one, saved(tmp_path, "same", results(GOOD))], tmp_path)
    with pytest.raises(LabError, match="another matrix"):
        merge([one, saved(tmp_path, "other", replace(results(BAD), seed=2))], tmp_path)


def test_parts_of_processes_and_of_containers_are_not_mixed_up(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", results(GOOD, shard="1/2"))
    two = saved(tmp_path, "two", results(BAD, shard="2/2", runner=CONTAINER))
    with pytest.raises(LabError, match=r"two is of another matrix: cover, seed 1, peers in containers, not .* as pro"):
        merge([one, two], tmp_path)
    rest = saved(tmp_path, "rest", results(GOOD, shard="1/2", runner=CONTAINER))
    assert merge([rest, two], tmp_path).runner == CONTAINER


def test_a_run_of_containers_goes_on_in_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begin(Order(Selection(("own",), ("own",), ("own",)), runner=CONTAINER), tmp_path)
    write_results(folder, results(runner=CONTAINER))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    words = ["matrix", "--runs", str(tmp_path), "--resume", folder.name]
    assert main([*words, "--runner", "process"]) == 2
    told = "runs peers in containers, and goes on so: leave out --runner, or begin anew"
    assert capsys.readouterr().err == f"punchlab: {folder.name} {told}\n"
    for asked in ([], ["--runner", "container"]):
        assert main([*words, *asked]) == 3
        assert "no Docker engine runs here" in capsys.readouterr().err


def test_a_run_that_began_before_there_was_a_choice_goes_on_as_processes(tmp_path: Path) -> None:
    order = Order(Selection(("go",), ("js",), ("own",)))
    folder = begin(order, tmp_path)
    file = folder / ORDER
    value = json.loads(file.read_text("utf-8"))
    del value["runner"]
    file.write_text(json.dumps(value), "utf-8")
    assert order_of(folder) == order
    file.write_text(json.dumps({**value, "runner": "podman"}), "utf-8")
    with pytest.raises(LabError, match="runner among process, container, not 'podman'"):
        order_of(folder)


def test_a_run_that_was_cut_off_in_the_middle_of_a_line_goes_on_from_what_is_whole(tmp_path: Path) -> None:
    from lab.model.plain import to_plain

    order = Order(Selection(("go",), ("js",), ("own",)), seed=3, shard=Shard(2, 8))
    folder = begin(order, tmp_path)
    assert order_of(folder) == order
    unbuilt = Cell(setup("py", "go"), (Attempt((Outcome(Check.ECHO, Mark.UNSUPPORTED, "py is not here"),), 0.0),))
    lines = [json.dumps(to_plain(each)) for each in (BAD, GOOD, replace(BAD, attempts=BAD.attempts[:1]), unbuilt)]
    (folder / JOURNAL).write_text("\n".join([*lines, lines[0][:50]]), "utf-8")
    done = resume(folder)
    assert set(done) == {BAD.setup.name, GOOD.setup.name}
    assert len(done[BAD.setup.name].attempts) == 1
    assert resume(folder) == done
    assert find_run(tmp_path, folder.name[:20]) == folder, "killed before there were results, it is a run all the same"
    with pytest.raises(LabError, match="not the run of a matrix"):
        order_of(tmp_path)


@pytest.mark.parametrize("name", ["/not/there", "2025[", "../else", "", "no\x00where"])
def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match="there are none yet"):
        find_run(tmp_path, name)


def punched(relay: str, nats: tuple[str, str], mark: Mark, why: str) -> Cell:
    of = Setup(Scene.PUNCH, "own", "go", Stack("quic"), relay, nats)
    return Cell(of, (Attempt((Outcome(Check.PUNCH, mark, why),), 2.0, evidence="cells/there"),))


def test_punches_are_told_by_nats_with_a_sign_for_each_relay() -> None:
    three = ("full-cone", "port-restricted", "symmetric-random")
    cells = [
        punched(relay, nats, Mark.PASSED, "direct: so") for relay in ("own", "go") for nats in product(three, three)
    ]
    cells[0] = punched("own", ("full-cone", "full-cone"), Mark.FAILED, "no such punch")
    cells[-1] = punched("go", ("symmetric-random", "symmetric-random"), Mark.PASSED, "relayed: so")
    who = (Implementation("own", "punchlab-python", "1"), Implementation("go", "go-libp2p", "0.51.0"))
    of = replace(results(*cells), implementations=who)
    told = punch_grids(of)
    assert told[0] == "**own → go over quic** by the relay of own, go"
    assert told[2] == "| from ↓ to → | full-cone | port-restricted | symmetric-random |"
    assert told[4] == "| full-cone | direct ✗✓ | direct ✓✓ | direct ✓✓ |"
    assert told[6] == "| symmetric-random | direct ✓✓ | direct ✓✓ | direct relayed ✓✓ |"
    assert punch_grids(replace(of, cells=of.cells[:2])) == []
    assert punch_counts(of) == [
        "| from → to | quic by own | quic by go |",
        "| --- | --- | --- |",
        "| own → go | 8 of 9 | 9 of 9 |",
    ]
    text = punches_page([of])
    assert "direct relayed ✓✓" in text
    assert "| own → go | 8 of 9 | 9 of 9 |" in text
    assert "| **own** | – | 17 of 18 |" in short_punches(of)


def test_the_page_and_the_readmes_table_are_made_of_results() -> None:
    text = page([EVERYTHING])
    assert "## connect, echo: every pair of values" in text
    assert "punchlab matrix" not in text
    readme = "before\n" + "".join(marks("interop")) + "between\n" + "".join(marks("punches")) + "after\n"

    def insert_stacks(text: str, of: Results) -> str:
        return insert(text, "interop", short_table(of), of)

    made = insert_stacks(readme, results(GOOD, AS_KNOWN))
    assert made.startswith("before\n")
    assert made.endswith("between\n" + "".join(marks("punches")) + "after\n")
    assert "| **go** | – | 1 of 1 |" in made
    assert "go-libp2p 0.51.0, js: no peer here; 2025-11-21." in made
    assert insert_stacks(made, results(GOOD, AS_KNOWN)) == made
    assert "2025-11-21; 1 of 2 setups only when tried again by themselves." in insert_stacks(
        readme, results(GOOD, FLAKY)
    )
    with pytest.raises(ValueError, match="has no lines"):
        insert_stacks("nothing", results(GOOD))
