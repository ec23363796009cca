"""An index at a URI: by the commands, over a directory that stands for a store, and over S3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, LocalFileSystem, S3FileSystem, SubTreeFileSystem

from haiftrace.store import remote_directory
from tests import kit
from tests.index.index_kit import complete_content, until
from tests.index.test_workers import CORPUS, MODEL
from tests.kit import cli, refused

URI = "s3://bucket/some/index"
QUESTION = ("Where does Michele Hall live?", "--response", " Berlin", "-o", "-", "--device", "cpu")
OPTIONS = ("--shard-records", "8", "--device", "cpu", "--calibrate", "16")


def arguments(output, *more, limit=40):
    limited = () if limit is None else ("--limit", limit)
    named = ("--model", MODEL, "--corpus", CORPUS, *limited)
    return ["index", *named, "-o", output, *OPTIONS, *more]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "index"
    outcome = cli(*arguments(path))
    assert outcome.code == 0, outcome.err
    return path


# A directory that stands for a store


@pytest.fixture
def store(tmp_path, monkeypatch):
    home = tmp_path / "store"
    home.mkdir()

    def opened(uri):
        return SubTreeFileSystem(str(home), LocalFileSystem()), uri.partition("://")[2]

    monkeypatch.setattr(remote_directory, "_opened", opened)
    return home


def test_index_show_trace_and_verify(tmp_path, store, plain):
    cache = {"HAIFTRACE_CACHE": str(tmp_path / "cache")}
    made = cli(*arguments(URI), **cache)
    assert made.code == 0, made.err
    assert f"The index {URI} is ready" in made.err
    assert f"--index {URI}" in made.err
    assert complete_content(store / "bucket/some/index") == complete_content(plain)

    elsewhere = {"HAIFTRACE_CACHE": str(tmp_path / "elsewhere")}
    shown = cli("show", URI, "--json", **elsewhere)
    assert shown.report["path"] == URI
    assert f"of {URI} to a private working copy in" in shown.err
    traced, right = (
        cli("trace", *QUESTION, "--index", index, **elsewhere) for index in (URI, plain)
    )
    assert traced.code == right.code == 0, traced.err
    report, expected = traced.report, right.report
    assert report["findings"] == expected["findings"]
    assert report["index"].pop("path") == URI
    expected["index"].pop("path")
    assert report["index"] == expected["index"]
    verified = cli("index", "--verify", URI, "--device", "cpu", **elsewhere)
    assert verified.code == 0, verified.out
    assert f"The index {URI} can be trusted" in verified.out
    for outcome in (made, shown, traced, verified):
        assert str(tmp_path / "elsewhere/") + "/" not in outcome.out + outcome.err


def test_a_complete_index_is_changed_where_it_is(tmp_path, store):
    cache = {"HAIFTRACE_CACHE": str(tmp_path / "cache")}
    assert cli(*arguments(URI, limit=20), **cache).code == 0
    place = store / "bucket/some/index"
    secret = json.loads(CORPUS.read_text().splitlines()[3])
    ids = tmp_path / "ids"
    ids.write_text(secret["id"] + "\n")
    elsewhere = {"HAIFTRACE_CACHE": str(tmp_path / "elsewhere")}
    dropped = cli("index", "--drop-ids", ids, "--compact", "-o", URI, **elsewhere)
    assert dropped.code == 0, dropped.err
    assert "Removed 1 records" in dropped.err
    assert "keeps versions of files" in dropped.err
    text = secret["text"].encode()
    for file in (path for path in place.rglob("*") if path.is_file()):
        assert text not in file.read_bytes()
    assert cli("show", URI, "--json", **cache).report["counts"]["records"] == 19


def test_parts_are_put_together_by_a_glob(tmp_path, store, plain):
    cache = {"HAIFTRACE_CACHE": str(tmp_path / "cache")}
    for number in (1, 2):
        output = f"s3://bucket/parts/p-{number}"
        part = (*arguments(output)[:-2], "--part", f"{number}/2")  # without --calibrate
        outcome = cli(*part, **cache)
        assert outcome.code == 0, outcome.err
    merged = cli(
        *("index", "--merge", "s3://bucket/parts/p-*", "-o", URI, "--calibrate", "16"),
        **{"HAIFTRACE_CACHE": str(tmp_path / "elsewhere")},
    )
    assert merged.code == 0, merged.err
    assert complete_content(store / "bucket/some/index") == complete_content(plain)


def test_a_damaged_store_is_inconclusive(tmp_path, store):
    assert cli(*arguments(URI, limit=20), HAIFTRACE_CACHE=str(tmp_path / "cache")).code == 0
    file = store / "bucket/some/index/records/00000.parquet"
    file.write_bytes(file.read_bytes()[::-1])
    for command in (("trace", "x", "--index", URI), ("index", "--verify", URI)):
        outcome = cli(*command, HAIFTRACE_CACHE=str(tmp_path / "elsewhere"))
        refused(outcome, f"{URI}/records/00000.parquet does not match", code=3)


def test_what_is_no_place_is_refused():
    for uri, what in {
        "http://host/x": "http://host/x cannot be opened",
        "s3://": "names no place",
        "s3://KEY:HUSH@bucket/x": "s3://bucket/x holds a password",
        "s3://bucket/x?nonsense=HUSH": "s3://bucket/x cannot be opened",
    }.items():
        for command in (("index", "--model", MODEL, "--corpus", CORPUS, "-o"), ("show",)):
            outcome = cli(*command, uri)
            refused(outcome, what)
            assert "HUSH" not in outcome.err


# S3, as moto's server has it


@pytest.fixture(scope="module")
def s3():
    """The query of its URIs."""
    server = pytest.importorskip("moto.server")
    made = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        made.start()
        place = "{}:{}".format(*made.get_host_and_port())
        filesystem(place).create_dir("bucket")
        yield f"?endpoint_override={place}&scheme=http"
        made.stop()


def filesystem(place):
    return S3FileSystem(endpoint_override=place, scheme="http", allow_bucket_creation=True)


def listed(uri):
    """The store, and the names of the files below a URI."""
    place, _, query = uri.removeprefix("s3://").partition("?")
    store = filesystem(query.split("&")[0].removeprefix("endpoint_override="))
    infos = store.get_file_info(FileSelector(place, allow_not_found=True, recursive=True))
    return store, [info.path.removeprefix(f"{place}/") for info in infos if info.is_file]


def shards(uri):
    return sum(name.startswith("records/") for name in listed(uri)[1])


def objects(uri):
    """The files below a URI, by their names."""
    store, names = listed(uri)
    place = uri.removeprefix("s3://").partition("?")[0]
    return {name: store.open_input_stream(f"{place}/{name}").read() for name in names}


def downloaded(uri, path):
    for name, content in objects(uri).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return complete_content(path)


@contextmanager
def begun(command, cache):
    process = subprocess.Popen(
        [sys.executable, "-m", "haiftrace", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HAIFTRACE_CACHE": str(cache)},
        cwd=kit.scratch("."),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_workers_to_s3_interrupted_and_gone_on_elsewhere(tmp_path, s3, plain):
    uri = f"s3://bucket/workers/index{s3}"
    command = arguments(uri, "--workers", "2", "--shard-records", "4")
    with begun(command, tmp_path / "one") as process:
        until(lambda: shards(uri) >= 3 or process.poll() is not None, 60)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
    assert not json.loads(objects(uri)["manifest.json"])["complete"]
    refused(
        cli("trace", "x", "--index", uri, HAIFTRACE_CACHE=str(tmp_path / "two")),
        "s3://bucket/workers/index is unfinished",
    )
    with begun(command, tmp_path / "two") as process:
        _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "Going on after" in err
    right = cli(*arguments(tmp_path / "right", "--shard-records", "4"))
    assert right.code == 0, right.err
    assert downloaded(uri, tmp_path / "copy") == complete_content(tmp_path / "right")


@pytest.mark.slow
def test_parts_on_s3_are_put_together(tmp_path, s3, plain):
    for number in (1, 2):
        part = (*arguments(f"s3://bucket/parts/p-{number}{s3}")[:-2], "--part", f"{number}/2")
        outcome = cli(*part, HAIFTRACE_CACHE=str(tmp_path / f"job-{number}"))
        assert outcome.code == 0, outcome.err
    uri = f"s3://bucket/merged{s3}"
    merge = ("index", "--merge", f"s3://bucket/parts/p-*{s3}", "-o", uri, "--calibrate", "16")
    merged = cli(*merge, HAIFTRACE_CACHE=str(tmp_path / "merging"))
    assert merged.code == 0, merged.err
    assert downloaded(uri, tmp_path / "copy") == complete_content(plain)


@pytest.mark.slow
def test_trace_from_s3(tmp_path, s3, plain):
    uri = f"s3://bucket/traced{s3}"
    assert cli(*arguments(uri), HAIFTRACE_CACHE=str(tmp_path / "one")).code == 0
    elsewhere = {"HAIFTRACE_CACHE": str(tmp_path / "two")}
    traced, again, right = (
        cli("trace", *QUESTION, "--index", index, **elsewhere) for index in (uri, uri, plain)
    )
    assert traced.report["findings"] == again.report["findings"] == right.report["findings"]
    assert "private working copy" in traced.err
    assert "private working copy" not in again.err


@pytest.mark.slow
def test_what_a_store_refuses_is_named(tmp_path, s3):
    cache = {"HAIFTRACE_CACHE": str(tmp_path / "cache")}
    refused(cli(*arguments(f"s3://nobucket/x{s3}"), **cache), "there is no such bucket")
    away = "s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http"
    refused(cli(*arguments(away), **cache), "the store cannot be reached")
    refused(cli("trace", "x", "--index", f"s3://bucket/none{s3}", **cache), "There is no index at")


@pytest.mark.slow
def test_credentials_that_are_not_accepted_are_named(tmp_path, s3):
    from moto.core import set_initial_no_auth_action_count

    outcome = set_initial_no_auth_action_count(0)(cli)(
        *arguments(f"s3://bucket/x{s3}"), HAIFTRACE_CACHE=str(tmp_path / "cache")
    )
    refused(outcome, "s3://bucket/x could not be read")
    assert "AWS_ACCESS_KEY_ID" in outcome.err.partition("Hint: ")[2]


@pytest.mark.slow
def test_a_ray_cluster_shares_the_store_alone(tmp_path, s3, plain):
    """Each worker has a directory of its own; nothing of it stays in the store or on the disk."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        node = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            uri = f"s3://bucket/ray{s3}"
            with begun(arguments(uri, "--ray", cluster.address), tmp_path / "cache") as process:
                _, err = process.communicate(timeout=900)
            assert process.returncode == 0, err
        finally:
            cluster.shutdown()
    assert downloaded(uri, tmp_path / "copy") == complete_content(plain)
    assert not [name for name in objects(uri) if Path(name).name.startswith(".")]
