"""A profile of an ONNX file waits for no library that it does not need."""

import subprocess
import sys

from tests.support.models import conv_net
from tests.support.paths import ROOT

SCRIPT = """
import sys
import hwbench
from hwbench.records.measurement import Settings
settings = Settings(budget_s=1)
hwbench.profile(sys.argv[1], device="virtual:noise=none", settings=settings, save=False)
print([name for name in ("torch", "hwbench.lookup_tables", "pandas") if name in sys.modules])
"""


def test_an_onnx_file_loads_neither_torch_nor_tables(tmp_path):
    (tmp_path / "net.onnx").write_bytes(conv_net((8,), size=8))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "net.onnx"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "[]\n", done.stderr
