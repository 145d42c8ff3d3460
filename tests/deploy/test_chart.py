"""The Helm chart: rendered by Helm, held against Kubernetes' schemas, and its containers' commands run.

Each command gets the environment and the files that the chart gives it, and its probes are answered.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from he_agg.host.processes import Process
from service.core.aggregator_key import AggregatorKey

helm = pytest.importorskip("helm_python", reason="no Helm here: pip install helm-python-sdk on Linux has it")
CHART = Path(__file__).parents[2] / "deploy/helm/he-agg"
ENGINES = {"engines": {"enabled": True}}
KUBERNETES = ("1.29", "1.31", "1.34")


def rendered(**values):
    """What is installed, by kind and name."""
    files = helm.Chart.load(CHART).render(values, name="study", namespace="research")
    documents = [one for text in files.values() for one in yaml.safe_load_all(text) if one]
    assert len(documents) > 2
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def container_of(document):
    """The container, and its variables."""
    (container,) = document["spec"]["template"]["spec"]["containers"]
    return container, {variable["name"]: variable["value"] for variable in container["env"]}


def answered(url, path):
    with urlopen(url.replace("0.0.0.0", "127.0.0.1").removesuffix("/metrics") + path) as answer:
        return answer.status == 200


@pytest.mark.parametrize("values", [{}, ENGINES, {"ingress": {"enabled": False}, "storage": {"className": "fast"}}])
def test_helm_finds_nothing_wrong_with_it(values):
    report = helm.lint(CHART, values, strict=True)
    assert [message for message in report["messages"] if message["error"] != "icon is recommended"] == []
    assert report["errors"] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", [{}, ENGINES])
def test_what_it_makes_fits_the_schemas_of_kubernetes(values, version):
    validate = pytest.importorskip("kubernetes_validate")
    for document in rendered(**values).values():
        validate.validate(document, version, strict=True)
    (wrong,) = [each for each in rendered(**values).values() if each["kind"] == "Service"]
    wrong["spec"]["ports"][0]["prot"] = 1
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("values", [{}, ENGINES])
def test_pods_are_of_the_restricted_kind(values):
    """As the Pod Security Standard says, and with a file system that stays as it is."""
    pods = [each["spec"]["template"]["spec"] for each in rendered(**values).values() if "template" in each["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["automountServiceAccountToken"] is False
        given = {volume["name"] for volume in pod["volumes"]} | ({"data"} if not values else set())
        assert {mount["name"] for mount in container["volumeMounts"]} == given


def test_names_lead_to_each_other():
    made = rendered(host="sums.example")
    pod, service, ingress = (made[kind, "study"] for kind in ("StatefulSet", "Service", "Ingress"))
    labels = pod["spec"]["template"]["metadata"]["labels"]
    assert labels == pod["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert pod["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
    (rule,) = ingress["spec"]["rules"]
    (behind,) = rule["http"]["paths"]
    assert (rule["host"], behind["path"]) == ("sums.example", "/v1")
    assert behind["backend"]["service"] == {"name": "study", "port": {"name": "sites"}}
    several = rendered(**ENGINES)
    assert (
        several["Service", "study"]["spec"]["selector"]
        == (several["Deployment", "study-serve"]["spec"]["selector"]["matchLabels"])
    )
    for name in ("study-serve", "study-work"):
        labels = several["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert labels == several["Deployment", name]["spec"]["selector"]["matchLabels"]
        assert labels == several["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"]


def test_the_one_pod_starts_and_its_probes_are_answered(tmp_path):
    container, given = container_of(rendered(settings={"HE_AGG_GRACEFUL_S": 5})["StatefulSet", "study"])
    assert (given["HE_AGG_DATA_DIR"], given["HE_AGG_GRACEFUL_S"]) == ("/data/he-agg", "5")
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {"sites": "8470", "metrics": given["HE_AGG_METRICS_PORT"]}
    here = {"HE_AGG_DATA_DIR": str(tmp_path / "data"), "HE_AGG_METRICS_PORT": "0", "HE_AGG_PORT": "0"}
    here |= {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "he_agg", *container["args"]]
    with Process(command, tmp_path / "pod.log", given | here) as aggregator:
        at = {"sites": aggregator.listening(), "metrics": aggregator.line().removeprefix("metrics on ")}
        for probe in (container["readinessProbe"], container["livenessProbe"]):
            assert answered(at[probe["httpGet"]["port"]], probe["httpGet"]["path"])
        assert answered(at["metrics"], "/metrics")


def test_several_pods_serve_and_work_over_engines(tmp_path, postgres, object_store):
    """Each pod has a directory of its own with nothing in it but the key, as the chart mounts it."""
    AggregatorKey.load_or_create(tmp_path)
    engines = {"HE_AGG_DATABASE_URL": postgres.new_database(), **object_store.environment()}
    place = object_store.new_place()
    made = rendered(**ENGINES)
    with contextlib.ExitStack() as stack:
        for name in ("study-serve", "study-work"):
            container, given = container_of(made["Deployment", name])
            (key,) = [mount for mount in container["volumeMounts"] if mount["name"] == "key"]
            assert (given["HE_AGG_DATA_DIR"], key["mountPath"]) == ("/data", "/data/aggregator.key")
            directory = tmp_path / name
            directory.mkdir()
            shutil.copy(tmp_path / "aggregator.key", directory / key["subPath"])
            here = {"HE_AGG_DATA_DIR": str(directory), "HE_AGG_METRICS_PORT": "0", "HE_AGG_PORT": "0"}
            here |= {"HE_AGG_PARTS": place, "XDG_CACHE_HOME": str(tmp_path)}
            command = [sys.executable, "-m", "he_agg", *container["args"]]
            process = Process(command, directory.with_suffix(".log"), given | engines | here)
            first = stack.enter_context(process).line()
            at = {"sites": first.removeprefix("listening on ")}
            at["metrics"] = process.line().removeprefix("metrics on ")
            probes = [container[kind] for kind in ("readinessProbe", "livenessProbe") if kind in container]
            assert probes
            for probe in probes:
                assert answered(at[probe["httpGet"]["port"]], probe["httpGet"]["path"])
            assert sorted(path.name for path in directory.iterdir()) == ["aggregator.key"]
