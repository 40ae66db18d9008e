"""The node's log on stderr, for people or for programs.

    20:14:58.120 alice INFO node.net.swarm: refused a connection from /ip4/…: the node has 128 connections of 128
    {"at": 1795.12, "node": "alice", "level": "info", "logger": "node.net.swarm", "message": "refused a …",
     "event": "refused a connection from %s: %s", "fields": ["/ip4/…", "the node has …"], "error": "LimitExceeded"}

`event` is the same for all messages of one kind, whatever their `fields`; `error` is the type of the error at fault.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TextIO

FORMATS = ("text", "json")
NUMBERS = (bool, int, float, type(None))


class JsonFormatter(logging.Formatter):
    """One JSON object a record, on one line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        arguments = record.args if isinstance(record.args, tuple) else (record.args,) if record.args else ()
        fields: dict[str, object] = {
            "at": record.created,
            "node": self._name,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "event": str(record.msg),
            "fields": [_plain(argument) for argument in arguments],
        }
        errors = [type(each).__name__ for each in arguments if isinstance(each, BaseException)]
        if errors:
            fields["error"] = errors[0]
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def _plain(argument: object) -> object:
    if isinstance(argument, Mapping):
        return {str(key): _plain(value) for key, value in argument.items()}
    return argument if isinstance(argument, NUMBERS) else str(argument)


def begin(stream: TextIO, *, name: str, level: str, form: str) -> None:
    """Write the log of the whole process to `stream`, from `level` up, in one of FORMATS."""
    handler = logging.StreamHandler(stream)
    if form == "json":
        handler.setFormatter(JsonFormatter(name))
    else:
        words = f"%(asctime)s.%(msecs)03d {name.replace('%', '%%')} %(levelname)s %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(words, datefmt="%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
