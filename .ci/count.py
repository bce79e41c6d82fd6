"""What trial counted: `python3 count.py LOG COUNT`.

Reads trial's output in LOG and writes one line to COUNT: "N passed, N failed, N skipped". Exits
with 1, and says why, when no test passed, when one failed, and when one was skipped.
"""

import re
import sys
from pathlib import Path


def summary(log: str) -> dict[str, int] | None:
    """The counts of trial's last line, by its own names for them; None when it never came so far."""
    endings = re.findall(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", log, re.MULTILINE)
    if not endings:
        return None
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", endings[-1])}


def skip_reasons(log: str) -> list[str]:
    """The first line of the reason of each group of skipped tests."""
    return re.findall(r"^={70,}\n\[SKIPPED\]\n(.*)$", log, re.MULTILINE)


def main(log_path: str, count_path: str) -> int:
    log = Path(log_path).read_text(errors="replace")
    complaints = []

    counts = summary(log)
    if counts is None:
        complaints.append("trial ended without a summary")
        counts = {"errors": 1}
    passed = counts.get("successes", 0)
    # A test marked todo is one that does not hold, whether as expected or not.
    failed = sum(counts.get(name, 0) for name in ("failures", "errors", "expectedFailures", "unexpectedSuccesses"))
    skipped = counts.get("skips", 0)

    reasons = skip_reasons(log)
    complaints += [f"skipped: {reason}" for reason in reasons]
    if skipped and not reasons:
        complaints.append("tests were skipped and no reason was found")
    if failed:
        complaints.append(f"{failed} failed")
    if not passed:
        complaints.append("no test passed")

    Path(count_path).write_text(f"{passed} passed, {failed} failed, {skipped} skipped\n")
    print("\n".join(complaints) or "every test ran and passed")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
