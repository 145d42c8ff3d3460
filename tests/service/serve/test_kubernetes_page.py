"""The file of docs/kubernetes.md: its container's command runs with its environment, and its probes are answered."""

import contextlib
import re
import shutil
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from he_agg.host.processes import Process
from service.core.aggregator_key import AggregatorKey

PAGE = (Path(__file__).parents[3] / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_container_starts_and_its_probes_are_answered(tmp_path):
    yaml = pytest.importorskip("yaml")
    pod, service, ingress = yaml.safe_load_all(BLOCKS[0])
    (container,) = pod["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    (volume,) = container["volumeMounts"]
    assert given["HE_AGG_DATA_DIR"].startswith(volume["mountPath"])
    assert pod["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == volume["name"]

    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {"sites": "8470", "metrics": given["HE_AGG_METRICS_PORT"]}
    environment = given | {"HE_AGG_DATA_DIR": str(tmp_path), "HE_AGG_METRICS_PORT": "0", "HE_AGG_PORT": "0"}
    with Process(
        [sys.executable, "-m", "he_agg", *container["args"]], tmp_path.with_name("pod.log"), environment
    ) as aggregator:
        at = {"sites": aggregator.listening(), "metrics": aggregator.line().removeprefix("metrics on ")}
        for probe in (container["readinessProbe"], container["livenessProbe"]):
            where = probe["httpGet"]
            with urlopen(at[where["port"]].replace("0.0.0.0", "127.0.0.1") + where["path"]) as answer:
                assert answer.status == 200
        with urlopen(at["metrics"].replace("0.0.0.0", "127.0.0.1")) as answer:
            assert answer.status == 200

    labels = pod["spec"]["template"]["metadata"]["labels"]
    assert labels == pod["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    (behind,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert behind["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "sites"}}
    assert behind["path"] == "/v1"


def test_several_pods_serve_and_work_over_engines(tmp_path, postgres, object_store):
    """Each pod has a directory of its own with nothing in it but the key, as the file mounts it."""
    yaml = pytest.importorskip("yaml")
    serve, work = yaml.safe_load(BLOCKS[1])["items"]
    key = tmp_path / "aggregator.key"
    AggregatorKey.load_or_create(tmp_path)
    engines = {"HE_AGG_DATABASE_URL": postgres.new_database(), **object_store.environment()}
    place = object_store.new_place()
    with contextlib.ExitStack() as stack:
        for document in (serve, work):
            spec = document["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            given = {variable["name"]: variable["value"] for variable in container["env"]}
            data, mounted = container["volumeMounts"]
            assert (data["mountPath"], mounted["mountPath"]) == (given["HE_AGG_DATA_DIR"], "/data/aggregator.key")
            assert {volume["name"] for volume in spec["volumes"]} == {data["name"], mounted["name"]}
            directory = tmp_path / document["metadata"]["name"]
            directory.mkdir()
            shutil.copy(key, directory / mounted["subPath"])
            environment = given | engines | {"HE_AGG_DATA_DIR": str(directory), "HE_AGG_METRICS_PORT": "0"}
            environment |= {"HE_AGG_PORT": "0", "HE_AGG_PARTS": place}
            process = Process(
                [sys.executable, "-m", "he_agg", *container["args"]], directory.with_suffix(".log"), environment
            )
            first = stack.enter_context(process).line()
            metrics = process.line().removeprefix("metrics on ").replace("0.0.0.0", "127.0.0.1")
            at = {"metrics": metrics.removesuffix("/metrics"), "sites": first.removeprefix("listening on ")}
            probes = [container[kind] for kind in ("readinessProbe", "livenessProbe") if kind in container]
            for where in [probe["httpGet"] for probe in probes]:
                with urlopen(at[where["port"]].replace("0.0.0.0", "127.0.0.1") + where["path"]) as answer:
                    assert answer.status == 200
            assert sorted(path.name for path in directory.iterdir()) == ["aggregator.key"]
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert labels == document["spec"]["selector"]["matchLabels"]
