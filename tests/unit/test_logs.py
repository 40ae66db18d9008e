"""The log as JSON: one object a line, whatever it is about."""

import json
import logging
import subprocess
import sys

from node.errors import LimitExceeded
from node.logs import JsonFormatter


def lines(*calls: tuple[object, ...]) -> list[dict[str, object]]:
    form, here = JsonFormatter("alice"), ("node.tests", logging.INFO, __file__, 1)
    records = [logging.LogRecord(*here, message, tuple(arguments), None) for message, *arguments in calls]
    return [json.loads(line) for record in records for line in form.format(record).splitlines()]


def test_messages_of_one_kind_have_one_event_and_their_own_fields() -> None:
    first, second = lines(("%s of %d: %s", "a\nb", 1, LimitExceeded("no")), ("%s of %d: %s", "c", 2, None))
    assert first["event"] == second["event"] == "%s of %d: %s"
    assert first["message"] == "a\nb of 1: no"
    assert (first["fields"], second["fields"]) == (["a\nb", 1, "no"], ["c", 2, None])
    assert (first["error"], second.get("error")) == ("LimitExceeded", None)
    assert (first["node"], first["level"], first["logger"]) == ("alice", "info", "node.tests")


def test_a_message_with_named_fields_keeps_their_names() -> None:
    (line,) = lines(("%(peer)s left", {"peer": "bob"}))
    assert (line["message"], line["fields"]) == ("bob left", [{"peer": "bob"}])


def test_a_node_that_is_asked_for_it_logs_json_on_stderr() -> None:
    command = [sys.executable, "-m", "node", "--name", "100%", "--log-level", "debug", "--log-format", "json"]
    ended = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=True)
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert told
    assert {line["node"] for line in told} == {"100%"}
