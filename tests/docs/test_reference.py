"""The reference pages name all there is: fields, findings, errors, options of virtual devices."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import hwbench
from hwbench import errors
from hwbench.cli import commands, history, matrix, quantize, tables
from hwbench.records.ceilings import Ceilings
from hwbench.records.quantization import Quantization, QuantizationRecipe, QuantizedVersion
from hwbench.render import documents, fronts, quantizing, searching
from hwbench.render import history as history_documents
from hwbench.render import matrix as matrix_documents
from hwbench.render import tables as table_documents
from hwbench.workflows.history import History, Timeline
from hwbench.workflows.matrix import Matrix, MatrixCell, MatrixColumn
from hwbench.workflows.predict import PredictedCell, predict
from hwbench.workflows.search.front import Front
from hwbench.workflows.selftest import SelfTest
from tests.docs.pages import DOCS, blocks, page
from tests.render.test_render_views import CPU, compared, record
from tests.support import table_support
from tests.support.render_support import found

PACKAGE = Path(hwbench.__file__).parent


def fields(section: str) -> set[str]:
    """Names in the first column of the table under a heading of the page about JSON."""
    text = re.split(
        r"^#+ ", page("json.md").split(f"# {section}\n", 1)[1], maxsplit=1, flags=re.MULTILINE
    )[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def predicted() -> dict[str, object]:
    table = table_support.built(quiet=True).table
    return table_documents.prediction_document(predict("zoo:resnet20", table=table))


def predicted_several() -> dict[str, object]:
    table = table_support.built(quiet=True).table
    prediction = predict("zoo:resnet20", table=table)
    cells = [PredictedCell("zoo:resnet20", "virtual", prediction)]
    return table_documents.predictions_document(cells)["predictions"][0]


def measured_matrix() -> Matrix:
    column = MatrixColumn("virtual")
    comparison = compared(0.5)
    cell = MatrixCell("net", column, comparison.candidate, comparison)
    return Matrix(("base", "net"), (column,), (cell,))


def stored_history() -> History:
    return History("net", 0.01, (Timeline((record(),), ()),))


def quantized() -> Quantization:
    recipe = QuantizationRecipe(
        "net",
        "1",
        "onnxruntime",
        "QDQ",
        "uint8",
        "int8",
        True,
        "MinMax",
        "digits",
        8,
        0,
        None,
        (),
        "2",
    )
    version = QuantizedVersion((), None, 30.0, 0.0, 1.0, is_chosen=True)
    paths = Path("net.int8.onnx"), Path("net.int8.json")
    return Quantization(*paths, recipe, compared(0.5), (version,), (), ())


DOCUMENTS = {
    "profile": lambda: documents.profile_document(record()),
    "layer": lambda: documents.profile_document(record())["layers"][0],
    "ceilings": lambda: documents.ceilings_document(
        Ceilings(CPU, 1, (), "2026-03-01T09:00:00+00:00", "0")
    ),
    "device": lambda: documents.profile_document(record())["device"],
    "record": lambda: documents.profile_document(record())["record"],
    "compare": lambda: documents.compare_document(compared(0.5)),
    "side": lambda: documents.compare_document(compared(0.5))["baseline"],
    "quantize": lambda: quantizing.quantize_document(quantized()),
    "version": lambda: quantizing.quantize_document(quantized())["versions"][0],
    "selftest": lambda: documents.selftest_document(SelfTest(CPU, (compared(1.0),))),
    "search": lambda: searching.search_document(found("net")),
    "front": lambda: fronts.front_document(Front((found("net"),))),
    "outcome": lambda: searching.search_document(found("net"))["original"],
    "table predict": predicted,
    "prediction": predicted_several,
    "matrix": lambda: matrix_documents.matrix_document(measured_matrix()),
    "history": lambda: history_documents.history_document(stored_history()),
    "timeline": lambda: history_documents.history_document(stored_history())["timelines"][0],
    "cell": lambda: matrix_documents.cell_document(measured_matrix().cells[0]),
    "column": lambda: matrix_documents.matrix_document(measured_matrix())["columns"][0],
}


@pytest.mark.parametrize("section", DOCUMENTS)
def test_fields_of_json_are_those_on_the_page(section):
    assert fields(section) == set(DOCUMENTS[section]())


def codes() -> set[str]:
    """Codes of all findings that the package makes."""
    made: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Finding"
                and node.args
            ):
                made |= {
                    leaf.value for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)
                }
    return {code for code in made if isinstance(code, str)}


def test_every_finding_is_on_its_page():
    assert len(codes()) > 40
    assert codes() <= set(re.findall(r"`(\w+)`", page("findings.md")))


def subclasses(kind: type[errors.HwbenchError]) -> set[type[errors.HwbenchError]]:
    return {kind}.union(
        *(
            subclasses(below)
            for below in kind.__subclasses__()
            if below.__module__ == errors.__name__
        )
    )


def test_every_error_is_on_the_page_with_its_exit_code():
    told = dict(re.findall(r"^\| `(\w+Error)` \| (\d+) \|", page("command-line.md"), re.MULTILINE))
    assert told == {kind.__name__: str(kind.exit_code) for kind in subclasses(errors.HwbenchError)}


def test_fields_of_rules_are_those_on_the_page():
    text = page("command-line.md")
    rows = {
        line.split("|")[1].strip().strip("`"): line
        for line in text.splitlines()
        if line.startswith("| `")
    }
    for command, names in {
        "profile": commands.PROFILE_FIELDS,
        "compare": commands.COMPARE_FIELDS,
        "selftest": commands.SELFTEST_FIELDS,
        "matrix": matrix.MATRIX_FIELDS,
        "quantize": quantize.QUANTIZE_FIELDS,
        "history": history.HISTORY_FIELDS,
        "table build": tables.BUILD_FIELDS,
        "table validate`, `table recalibrate": tables.GRADE_FIELDS,
    }.items():
        assert set(re.findall(r"`(\w+)`", rows[command].split("|")[2])) >= set(names), command


def test_commands_on_the_pages_exist():
    """`hwbench WORD ...` in code: the first words are commands, the options are theirs."""
    import typer.main

    tree = typer.main.get_command(commands.app)
    for path in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"):
        code = "".join(blocks(path, "console") + blocks(path, "shell"))
        for line in re.findall(r"^(?:\$ )?(hwbench .*)$", code, re.MULTILINE):
            words = re.split(r"#|;|\|", line)[0].split()[1:]
            known, command = {"--help"}, tree
            for word in words:
                inner = getattr(command, "commands", {}).get(word)
                if inner is None:
                    if command is tree.commands["search"]:  # a network: that of the default search
                        command = command.commands["knapsack"]
                    break
                command = inner
            assert command is not tree or words[0].startswith("-"), f"{path.name}: {line}"
            known |= {
                option for one in command.params for option in (*one.opts, *one.secondary_opts)
            }
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert given <= known, f"{path.name}: {line}"


def test_every_extra_is_on_the_page_about_installing():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.findall(r"^\| `([\w-]+)` \|", page("install.md"), re.MULTILINE)
    assert sorted(extras) == sorted(project["optional-dependencies"])


def test_the_zoo_is_complete_on_its_page():
    from hwbench.network import zoo

    assert set(zoo.NETWORKS) <= set(re.findall(r"\w+", page("command-line.md")))
