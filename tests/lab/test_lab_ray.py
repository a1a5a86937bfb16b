"""Real Ray processes on loopback: one head, three hosts, virtual devices.

Clients are commands of their own.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import psutil
import pytest

from tests.lab.ray_support import real_lab
from tests.support.models import conv_net

pytest.importorskip("ray", reason="a lab needs Ray: pip install 'hwbench-latency[lab]'")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    (folder / "net.onnx").write_bytes(conv_net((16, 24, 32)))
    (folder / "half.onnx").write_bytes(conv_net((8, 12, 16)))
    with real_lab(folder) as lab:
        lab.join("rack1", "virtual:seed=1", "virtual:seed=2")
        lab.join("rack2", "virtual:seed=3", "virtual:step=8")
        lab.join("rack3", "virtual:seed=4")
        lab.await_devices(5)
        yield lab


def networks(store) -> list[dict[str, Any]]:
    """The networks that a build kept, by number; none while the store is being made."""
    with closing(sqlite3.connect(store)) as connection:
        if not connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'hwbench_records'"
        ).fetchall():
            return []
        rows = connection.execute(
            "SELECT record FROM hwbench_records WHERE kind = 'table_build'"
        ).fetchall()
    records = [json.loads(record) for (record,) in rows]
    return sorted(
        (record for record in records if record["number"] >= 0), key=lambda record: record["number"]
    )


def ours(lab) -> list[str]:
    return ["--lab", lab.address, "--store", str(lab.folder / "store.db")]


def test_everything_listens_on_this_computer_alone(lab):
    processes = [psutil.Process(process.pid) for process in lab.hosts.values()]
    family = [child for process in processes for child in process.children(recursive=True)]
    listening = {
        connection.laddr.ip
        for one in family
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert all(ip.removeprefix("::ffff:") in {"127.0.0.1", "::1"} for ip in listening)


def test_strangers_are_refused(lab):
    wrong = lab.call(
        "lab", "status", lab.address, HWBENCH_LAB_TOKEN="another-token-of-enough-characters"
    )
    assert wrong.returncode == 3
    assert "has another token" in wrong.stderr
    joined = lab.call(
        "lab",
        "join",
        lab.address,
        "--device",
        "virtual",
        HWBENCH_LAB_TOKEN="another-token-of-enough-characters",
    )
    assert joined.returncode == 3
    nowhere = lab.call("lab", "status", "127.0.0.1:1")
    assert nowhere.returncode == 3
    assert "no lab at 127.0.0.1:1 can be reached" in nowhere.stderr


def test_profile_and_compare_are_done_on_a_device_of_the_lab(lab):
    found = lab.call(
        "profile", "net.onnx", *ours(lab), "--device", "*@rack3", "--budget", "2", "--json", "-"
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["device"]["address"] == "virtual:seed=4"
    found = lab.call(
        "compare",
        "net.onnx",
        "half.onnx",
        *ours(lab),
        "--device",
        "virtual:seed=*",
        "--budget",
        "4",
        "--json",
        "-",
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["verdict"] == "FASTER"
    assert lab.call("store", "list", *ours(lab)[2:]).stdout.count("net.onnx") == 2
    none = lab.call("profile", "net.onnx", *ours(lab), "--device", "android:*")
    assert none.returncode == 2
    assert "is meant by 'android:*'; there are: virtual:seed=1@rack1" in none.stderr


def test_a_table_of_two_kinds_is_refused(lab):
    mixed = lab.call("table", "build", "net.onnx", *ours(lab), "--device", "virtual:*")
    assert mixed.returncode == 2
    assert "virtual:step=8@rack2" in mixed.stderr
    assert "a table is of one kind" in mixed.stderr


def test_a_table_outlives_its_client_and_a_host(lab):
    store = lab.folder / "store.db"
    words = [
        "table",
        "build",
        "net.onnx",
        *ours(lab),
        "--device",
        "virtual:seed=*",
        "--validation",
        "4",
        "--budget",
        "900",
    ]
    words += ["--json", "-"]
    client = lab.popen(*words)
    until = time.monotonic() + 120
    while not (store.exists() and networks(store)):
        assert client.poll() is None, client.communicate()
        assert time.monotonic() < until
    client.kill()
    client.communicate()
    lab.kill_host("rack3")
    again = lab.call(*words)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["grade"]["networks"] == 4
    found = networks(store)
    assert [record["number"] for record in found] == list(range(len(found)))
    assert len(found) >= 48
    assert {"virtual:seed=1@rack1", "virtual:seed=2@rack1", "virtual:seed=3@rack2"} <= {
        record["by"] for record in found
    }
    gone = {device["name"]: device for device in lab.status()["devices"]}["virtual:seed=4@rack3"]
    assert gone["state"] == "failed"


@pytest.mark.parametrize(
    "words",
    [
        ("amc", "zoo:plain20", "--trials", "6", "--no-baselines", "--jobs", "2"),
        ("practise", "zoo:resnet20", "--adaptor-steps", "1"),
    ],
    ids=["widths by a table", "blocks as measured"],
)
def test_a_search_has_its_latencies_from_the_lab(lab, words):
    given = [
        "--latency",
        "0.7",
        "--input",
        "1x3x16x16",
        "--budget",
        "240",
        "--tune",
        "none",
        "--json",
        "-",
    ]
    found = lab.call(
        "search",
        *words,
        *given,
        *ours(lab),
        "--device",
        "virtual:seed=*",
        "--out",
        str(lab.folder / words[0]),
    )
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["measured"]["device"]["address"].startswith("virtual:seed=")
    assert document["measured"]["speedup"] > 1 / 0.75
    assert (lab.folder / words[0] / "network.onnx").is_file()


def test_a_search_is_steered_by_devices_of_one_kind(lab):
    mixed = lab.call(
        "search", "amc", "zoo:plain20", "--latency", "0.5", *ours(lab), "--device", "virtual:*"
    )
    assert mixed.returncode == 2
    assert "virtual:step=8@rack2" in mixed.stderr


def test_the_pool_may_be_lost(lab):
    lab.await_pool().kill()
    lab.await_devices(4)
    found = lab.call("profile", "net.onnx", *ours(lab), "--device", "*@rack2", "--budget", "2")
    assert found.returncode == 0, found.stderr


def test_a_host_that_is_ended_leaves(lab):
    lab.hosts["rack1"].terminate()
    assert lab.hosts.pop("rack1").wait(60) == 0
    lab.await_status(
        lambda devices: not any(device["name"].endswith("@rack1") for device in devices)
    )
    assert "virtual:seed=3@rack2" in lab.call("lab", "status", lab.address).stdout
