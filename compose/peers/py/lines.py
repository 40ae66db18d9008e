"""The lines of the peer contract (docs/contract.md): commands come on stdin, answers and events go to stdout."""

import json
import math
import os
import time

import trio

MAX_AT_ONCE = 256
MAX_LINE = 1 << 20
READ = 1 << 16
DEFAULT_TIMEOUT = 30.0
MAX_TIMEOUT = 3600.0


class Refusal(Exception):
    """An error with the contract's word for its kind."""

    def __init__(self, kind, why):
        super().__init__(why)
        self.kind = kind


def show(line):
    print(json.dumps(line), flush=True)


def event(name, **fields):
    """Print an event; fields that are None are left out."""
    show({"event": name, "at": time.time(), **{key: value for key, value in fields.items() if value is not None}})


def complain(why):
    event("complaint", why=why)


def reasons(error):
    """All reasons of an error in one line; tasks that ran side by side have one each."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(reasons(each) for each in error.exceptions)
    return " ".join(str(error).split()) or type(error).__name__


async def serve(commands):
    """Run commands side by side until stdin ends or `stop` comes."""
    slots = trio.Semaphore(MAX_AT_ONCE)
    async with trio.open_nursery() as nursery:
        number = 0
        async for line in _lines():
            number += 1
            request = _parse(line, number)
            if request is None:
                continue
            if request.get("do") == "stop":
                if isinstance(request.get("id"), int):
                    show({"id": request["id"], "ok": {}})
                break
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                why = f"{MAX_AT_ONCE} commands are under way already"
                show({"id": request["id"], "error": "limit", "why": why})
                continue
            nursery.start_soon(_answer, commands, request, slots)
        nursery.cancel_scope.cancel()


async def _lines():
    pending = bytearray()
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        while data := await stdin.receive_some(READ):
            pending += data
            *whole, rest = pending.split(b"\n")
            pending = bytearray(rest)
            for line in whole:
                yield bytes(line)
            if len(pending) > MAX_LINE:
                complain(f"a line is longer than {MAX_LINE} bytes")
                return


def _parse(line, number):
    try:
        request = json.loads(line)
    except ValueError as error:
        return complain(f"line {number}: not JSON: {error}")
    if not isinstance(request, dict):
        return complain(f"line {number}: not an object")
    if request.get("do") != "stop" and not isinstance(request.get("id"), int):
        return complain(f"line {number}: no integer in `id`")
    return request


async def _answer(commands, request, slots):
    number, run = request["id"], commands.get(str(request.get("do")))
    try:
        if run is None:
            show({"id": number, "unsupported": str(request.get("do"))})
            return
        with trio.fail_after(_timeout(request)):
            show({"id": number, "ok": await run(request)})
    except trio.TooSlowError:
        show({"id": number, "error": "timeout", "why": "the time for it is over"})
    except Exception as error:  # noqa: BLE001 - whatever py-libp2p raises is the answer
        show({"id": number, "error": getattr(error, "kind", "refused"), "why": reasons(error)})
    finally:
        slots.release()


def _timeout(request):
    timeout = request.get("timeout", DEFAULT_TIMEOUT)
    if not isinstance(timeout, int | float) or not math.isfinite(timeout) or not 0 < timeout <= MAX_TIMEOUT:
        raise Refusal("bad-argument", f"`timeout` must be up to {MAX_TIMEOUT:g} seconds")
    return timeout
