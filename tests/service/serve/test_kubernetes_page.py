"""The file of docs/kubernetes.md: its container's command runs with its environment, and its probes are answered."""

import re
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from he_agg.host.processes import Process

PAGE = (Path(__file__).parents[3] / "docs/kubernetes.md").read_text()


def test_the_container_starts_and_its_probes_are_answered(tmp_path):
    yaml = pytest.importorskip("yaml")
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    pod, service, ingress = yaml.safe_load_all(text)
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
