"""What does the HTML report look like, on real and on simulated measurements?

python -m runners.studies.report [CHROMIUM]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hwbench.records.measurement import Settings
from hwbench.report import make_report
from hwbench.store import open_store
from hwbench.workflows.build_table import build_table
from hwbench.workflows.compare import compare
from hwbench.workflows.matrix import measure_matrix
from hwbench.workflows.profile import profile
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from runners.studies._results import RESULTS, save_study

if TYPE_CHECKING:
    from playwright.sync_api import Page

MODEL, HALF, ODD = "zoo:mobilenet_v1", "zoo:mobilenet_v1@0.5", "zoo:mobilenet_v1@0.53"
VIRTUAL = "virtual:seed=3"
BUDGET_S = 20.0
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESK, PHONE = (1280, 1500), (390, 844)
LARGEST_BYTES = 300_000


@dataclass(frozen=True)
class Shot:
    """One picture: of the first page whose address begins so and that has a figure, from a heading
    on.
    """

    name: str
    page: str
    theme: str
    size: tuple[int, int]
    heading: str = ""
    has: str = ""


SHOTS = (
    Shot("overview_light", "overview", "light", DESK),
    Shot("overview_dark", "overview", "dark", DESK),
    Shot("model_light", "model/", "light", DESK, has="Layers"),
    Shot("compare_light", "compare/", "light", DESK, has="Layer by layer"),
    Shot("compare_layers_dark", "compare/", "dark", DESK, "Layer by layer", has="Layer by layer"),
    Shot("table_light", "table/", "light", DESK),
    Shot("table_curves_dark", "table/", "dark", DESK, "Latency over width"),
    Shot("search_light", "search/", "light", DESK, has="Preserve ratios"),
    Shot("matrix_light", "matrix/", "light", DESK),
    Shot("history_light", "history/", "light", DESK, has="Lasting changes"),
    Shot("matrix_phone_dark", "matrix/", "dark", PHONE, "Latency"),
    Shot("overview_phone", "overview", "light", PHONE),
    Shot("compare_phone_dark", "compare/", "dark", PHONE, has="Layer by layer"),
    Shot("layers_phone", "model/", "light", PHONE, "Layers", has="Layers"),
)


def measure(store: str) -> None:
    """A small real run on this computer's CPU, and a table and searches on simulated and published
    latencies.
    """
    settings = Settings(budget_s=BUDGET_S)
    for _ in range(2):
        profile(MODEL, settings=Settings(budget_s=BUDGET_S / 2), store=store)
    profile("zoo:resnet20", settings=Settings(budget_s=BUDGET_S / 2), store=store)
    for candidate in (ODD, HALF):
        compare(MODEL, candidate, settings=settings, store=store)
    profile("zoo:resnet20", device=VIRTUAL, store=store)
    build_table("zoo:resnet20", device=VIRTUAL, settings=settings, validation=40, store=store)
    amc = Plan("amc", Limit("latency", share=0.55), trials=120)
    run_search(MODEL, amc, table="pixel1", store=store)
    blocks = Plan.of("practise", Limit("latency", share=0.8), adaptor_steps=10, tune="none")
    run_search("zoo:resnet20", blocks, device=VIRTUAL, store=store)
    measure_matrix(
        ["zoo:resnet20", "zoo:resnet20@0.75", "zoo:resnet20@0.5", "zoo:plain20"],
        devices=[VIRTUAL],
        precisions=["fp32", "int8"],
        threads=[1, 2],
        store=store,
    )
    simulate_weeks(store)


def simulate_weeks(store: str) -> None:
    """A model that is measured once a week, and becomes a little wider after ten weeks."""
    with open_store(store) as opened:
        for week in range(16):
            network = "zoo:resnet20" if week < 10 else "zoo:resnet20@1.05"
            record = profile(network, device=f"virtual:seed={week},step=1", save=False)
            began = datetime(2026, 3, 2, 6, tzinfo=UTC) + timedelta(days=7 * week)
            opened.save(replace(record, model="classifier.onnx", started_utc=began.isoformat()))


def shoot(
    report: Path, shots: tuple[Shot, ...], folder: Path, chromium: str
) -> list[dict[str, object]]:
    """Open the report and take the pictures."""
    from playwright.sync_api import sync_playwright

    rows: list[dict[str, object]] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        for shot in shots:
            width, height = shot.size
            screen: Any = {"width": width, "height": height}
            context = browser.new_context(
                viewport=screen,
                color_scheme="dark" if shot.theme == "dark" else "light",
                reduced_motion="reduce",
            )
            page = context.new_page()
            page.goto(report.as_uri())
            _go(page, shot)
            target = folder / f"{shot.name}.png"
            page.screenshot(path=target, animations="disabled")
            _shrink(target)
            rows.append(
                {
                    "picture": target.name,
                    "colours": shot.theme,
                    "width_px": width,
                    "size_kB": round(target.stat().st_size / 1e3),
                }
            )
            context.close()
        browser.close()
    return rows


def _go(page: Page, shot: Shot) -> None:
    address = page.evaluate(_FIND, [shot.page, shot.has])
    page.evaluate("id => { location.hash = id }", address)
    page.wait_for_function(
        "id => document.querySelector('h1') && location.hash === `#${id}`", arg=address
    )
    if shot.heading:
        page.get_by_role("heading", name=shot.heading, exact=True).evaluate(
            "(heading) => scrollTo(0, heading.offsetTop - 24)"
        )


_FIND = """([start, title]) => JSON.parse(document.getElementById("data").textContent).pages
    .find((page) => page.id.startsWith(start) &&
        (!title || page.figures.some((figure) => figure.title === title))).id"""


def _shrink(path: Path) -> None:
    """Few colours are enough for text and lines."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT).save(
        path, optimize=True
    )
    if path.stat().st_size > LARGEST_BYTES:
        raise RuntimeError(f"{path} takes {path.stat().st_size} bytes, more than {LARGEST_BYTES}")


def main(fill: Callable[[str], None] = measure) -> None:
    """Measure, write the report, take the pictures, write results/report/."""
    chromium = (
        sys.argv[1]
        if len(sys.argv) > 1
        else which("chromium") or which("chromium-browser") or which("google-chrome")
    )
    if chromium is None:
        raise SystemExit("needs Chromium: apt-get install chromium, or give its path")
    folder = RESULTS / "report"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        store = str(Path(scratch) / "store.db")
        fill(store)
        report = Path(scratch) / "report.html"
        make_report(store=store).save(report)
        rows = shoot(report, SHOTS, folder, chromium)
    pictures = "\n\n".join(f"![{shot.name.replace('_', ' ')}]({shot.name}.png)" for shot in SHOTS)
    save_study(
        "report",
        question=(
            "What does `hwbench report` show of a small real run on this CPU, and of a table and"
            " searches without a device?"
        ),
        rows=rows,
        command="make study NAME=report",
        notes=(
            f"Taken by headless Chromium from the page that `hwbench report` writes.\n\n{pictures}"
        ),
    )


if __name__ == "__main__":
    main()
