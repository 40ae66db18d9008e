"""After a `make test` in which few tests failed: run those once more, alone, to tell flaky from failing, and say which.

Exit status 0 only if each of them passes alone. What was more than a failed test (an interruption, a broken collection)
is never run again, nor are more tests than `MOST`: then something is wrong with all.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
TESTS_FAILED = 1
KEPT = Path(__file__).parents[1] / ".pytest_cache/v"


def main() -> int:
    try:
        status = json.loads((KEPT / "punchlab/status").read_text())
        failed = list(json.loads((KEPT / "cache/lastfailed").read_text()))
    except FileNotFoundError:
        print("again: no tests were run")
        return 1
    if status != TESTS_FAILED or not 1 <= len(failed) <= MOST:
        print(f"again: {len(failed)} failed, exit status {status}: that is not tried again")
        return 1
    flaky = True
    for test in failed:
        alone = subprocess.run([sys.executable, "-m", "pytest", "-q", test], check=False).returncode == 0
        print(f"again: {'FLAKY, passes alone' if alone else 'FAILING, alone too'}: {test}", flush=True)
        flaky = flaky and alone
    return 0 if flaky else 1


if __name__ == "__main__":
    sys.exit(main())
