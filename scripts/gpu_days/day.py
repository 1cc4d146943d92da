"""The first day with a GPU: what to run on it, in phases of less than ten minutes.

A phase is a list of measurements. Each is made in turn, an error of one is kept and the next one
runs; measurements that the time of the phase does not allow are left out by name.
FOLDER/phase-N.json is written anew after each, so that whatever ends the run, what was measured is
there.

    scripts/gpu_day [PHASE]... [-o FOLDER] [--features FEATURES.npz] [--minutes M]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MINUTES = 9.5
"""Of a phase at the most."""


def main() -> None:
    """Run the phases asked for, list them, or write the page."""
    options = _options()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # has to be chosen before Triton is imported
    from phases import PHASES

    chosen = options.phases or list(PHASES)
    if unknown := [number for number in chosen if number not in PHASES]:
        sys.exit(f"gpu_day: there is no phase {unknown[0]}. Choose from 1 to {max(PHASES)}.")
    if options.write:
        from page import write

        write(options.page, options.output, small=options.small)
    elif options.dry_run:
        for number in chosen:
            phase = PHASES[number]
            print(f"{number}  {phase.minutes:4.0f} min  {phase.meaning}")
        print(f"   {sum(PHASES[number].minutes for number in chosen):5.0f} min in all")
    else:
        from measuring_day import Day, device_of

        day = Day(device_of(options.device), options.small, options.features, options.output)
        for number in chosen:
            run(day, number, PHASES[number], min(options.minutes, MINUTES))


def run(day: Any, number: int, phase: Any, minutes: float) -> None:
    """Make the measurements of a phase."""
    started, results = time.perf_counter(), dict[str, Any]()
    record = {"phase": number, "meaning": phase.meaning, **day.about(), "results": results}
    left_out: list[str] = []
    day.end = started + 60 * minutes
    for name, measure in _guarded(phase.measurements(day), results):
        begun = time.perf_counter()
        if day.left <= 0:
            left_out.append(name)
            continue
        try:
            result = {"result": measure()}
        except Exception as error:  # the next measurement may well be possible
            result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        now = time.perf_counter()
        results[name] = {**result, "seconds": round(now - begun, 3)}
        record |= {"left_out": left_out, "seconds": round(now - started, 1)}
        day.write(f"phase-{number}.json", record)
        shown = result.get("error") or json.dumps(result["result"], default=str)
        print(f"{number} {now - started:5.0f} s  {name}: {shown[:300]}", flush=True)
    record |= {"left_out": left_out, "seconds": round(time.perf_counter() - started, 1)}
    day.write(f"phase-{number}.json", record)
    if left_out:
        print(f"{number} left out, for want of time: {', '.join(left_out)}")


def _guarded(measurements: Iterator[Any], results: dict[str, Any]) -> Iterator[Any]:
    """Measurements as far as they can be listed; what ends the list is kept as an error."""
    try:
        yield from measurements
    except Exception as error:
        results["the list"] = {
            "error": f"{type(error).__name__}: {error}",
            "trace": traceback.format_exc(),
        }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu_day", description=__doc__.splitlines()[0])
    parser.add_argument("phases", nargs="*", type=int, metavar="PHASE")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-day"), help="folder of JSON")
    parser.add_argument("--features", type=Path, help="x_train_instance, y_train, … for phase 5")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the code")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each phase at the most")
    parser.add_argument("--dry-run", action="store_true", help="list the phases")
    parser.add_argument("--write", action="store_true", help="write the GPU table of the page")
    page = Path(__file__).parents[2] / "docs" / "performance.md"
    parser.add_argument("--page", type=Path, default=page, help="to write the table into")
    return parser.parse_args()


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))
    main()
