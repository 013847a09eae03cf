"""The objects for Kubernetes: judged by its own schema and by KubeRay's fields, and by what a run needs of them."""

import copy
import logging
import shlex
from importlib.metadata import version

import jsonschema
import kubernetes_validate
import pytest
from packaging.version import Version

from sam_pipeline.cli.commands import main
from sam_pipeline.pipeline.machines.resources import check_batch_fits
from tests.infra import kuberay
from tests.infra.files import INFRA, documents, pins

FOLDER = INFRA / "kubernetes"
(JOB,) = documents("kubernetes/rayjob.yaml")
(CLUSTER,) = documents("kubernetes/raycluster.yaml")
ACCOUNTS = documents("kubernetes/accounts.yaml")
(NETWORK_POLICY,) = documents("kubernetes/network-policy.yaml")

CLUSTERS = {"RayJob": JOB["spec"]["rayClusterSpec"], "RayCluster": CLUSTER["spec"]}
RAY_PODS = [
    group for cluster in CLUSTERS.values() for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
]
PODS = [JOB["spec"]["submitterPodTemplate"], *(group["template"] for group in RAY_PODS)]
WORKERS = [group for cluster in CLUSTERS.values() for group in cluster["workerGroupSpecs"]]

MIB, GIB = 2**20, 2**30


def num_bytes(quantity):
    units = {"Mi": MIB, "Gi": GIB}
    return int(quantity[:-2]) * units[quantity[-2:]]


def container(pod):
    (only,) = pod["spec"]["containers"]
    return only


@pytest.mark.parametrize("document", [JOB, CLUSTER], ids=lambda each: each["kind"])
def test_kuberay_and_kubernetes_know_every_field(document):
    kuberay.check(document)


@pytest.mark.parametrize("document", [*ACCOUNTS, NETWORK_POLICY], ids=lambda each: each["metadata"]["name"])
def test_kubernetes_knows_every_field(document):
    kubernetes_validate.validate(document, kuberay.KUBERNETES, strict=True)


def test_every_file_is_judged():
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        "accounts.yaml",
        "network-policy.yaml",
        "raycluster.yaml",
        "rayjob.yaml",
    ]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (("spec",), "backOffLimit", 3),
        (("spec",), "ttlSecondsAfterFinished", "600"),
        (("spec",), "submissionMode", "K8SJobMode"),
        (("spec",), "shutdownAfterJobFinishes", False),
        (("spec", "submitterConfig"), "backoff", 3),
        (("spec", "rayClusterSpec"), "enableInTreeAutoScaling", True),
        (("spec", "rayClusterSpec", "authOptions"), "mode", "secret"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), "num-cpus", 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0), "maxReplica", 8),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"), "serviceAcountName", "sam-worker"),
        (
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volumes", 0, "emptyDir"),
            "size",
            "1Gi",
        ),
        (("metadata",), "name", "0-job"),
    ],
)
def test_a_wrong_field_is_refused(path, name, value):
    wrong = place = copy.deepcopy(JOB)
    for part in path:
        place = place[part]
    place[name] = value
    with pytest.raises(jsonschema.ValidationError):
        kuberay.check(wrong)


def test_a_wrong_field_of_a_policy_is_refused():
    wrong = NETWORK_POLICY | {"spec": NETWORK_POLICY["spec"] | {"policyType": ["Ingress"]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kuberay.KUBERNETES, strict=True)


def test_the_entrypoint_is_a_command_that_this_version_takes(monkeypatch):
    def stop_here(config, *_, **__):
        given.append(config)
        raise SystemExit(0)

    given = []
    monkeypatch.setattr(logging.getLogger("sam_pipeline"), "level", logging.NOTSET)  # put back after the test
    monkeypatch.setattr("sam_pipeline.pipeline.annotate.annotate", stop_here)
    program, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert program == "sam-pipeline"
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    (config,) = given
    assert config.output == "s3://OUTPUT-BUCKET/masks"
    (workers,) = CLUSTERS["RayJob"]["workerGroupSpecs"]
    assert config.pools.gpus == workers["maxReplicas"]


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_a_cluster_asks_for_a_token_and_grows_and_shrinks(cluster):
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    # If it is not said, KubeRay starts a failed pod again in place, and the autoscaler counts it twice.
    assert cluster["autoscalerOptions"]["version"] == "v2"
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
    assert workers["maxReplicas"] > 0


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_ray_is_the_pinned_version_and_one_that_kuberay_asks_by_http(cluster):
    assert cluster["rayVersion"] == version("ray") == pins()["ray"]
    # Below, KubeRay's probes call wget, which the image does not have.
    assert Version(cluster["rayVersion"]) >= Version("2.53")


def test_a_failed_run_is_submitted_again_and_a_finished_one_leaves_no_machine():
    spec = JOB["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600


def test_both_clusters_are_the_same():
    assert CLUSTERS["RayCluster"] == CLUSTERS["RayJob"]


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_only_workers_are_on_machines_that_may_be_taken_away(cluster):
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert worker["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "spot"}
    assert JOB["spec"]["submitterPodTemplate"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: container(pod)["name"])
def test_no_autoscaler_of_nodes_moves_a_pod(pod):
    assert pod["metadata"]["annotations"] == {
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: container(pod)["name"])
def test_no_pod_runs_as_root_or_with_capabilities(pod):
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container(pod)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: container(pod)["name"])
def test_a_pod_has_an_account_and_only_the_head_a_token_of_kubernetes(pod):
    assert pod["spec"]["serviceAccountName"] in {account["metadata"]["name"] for account in ACCOUNTS}
    is_head = container(pod)["name"] == "ray-head"
    assert pod["spec"].get("automountServiceAccountToken", True) is is_head
    assert (pod["spec"]["serviceAccountName"] == "sam-head") is is_head


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: container(pod)["name"])
def test_no_pod_is_given_a_credential(pod):
    assert not {"env", "envFrom"} & container(pod).keys()


def test_pods_are_reached_by_each_other_by_the_operator_and_by_prometheus_alone():
    spec = NETWORK_POLICY["spec"]
    labels = spec["podSelector"]["matchLabels"]
    assert all(pod["metadata"]["labels"] == labels for pod in PODS)
    each_other, operator, prometheus = spec["ingress"]
    assert each_other == {"from": [{"podSelector": {"matchLabels": labels}}]}
    operator_labels = {"app.kubernetes.io/component": "kuberay-operator"}
    assert operator == {
        "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": operator_labels}}],
        "ports": [{"protocol": "TCP", "port": 8265}],
    }
    assert prometheus == {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "ports": [{"protocol": "TCP", "port": 8080}],
    }
    assert spec["policyTypes"] == ["Ingress"]


def test_pods_keep_the_name_that_kuberay_gives_its_own():
    # With another one, KubeRay 1.1 found no head (ray-project/kuberay#2147).
    assert all("app.kubernetes.io/name" not in pod["metadata"]["labels"] for pod in PODS)


@pytest.mark.parametrize("group", RAY_PODS, ids=lambda group: container(group["template"])["name"])
def test_the_object_store_fits_into_shared_memory_and_that_into_the_pod(group):
    (volume,) = group["template"]["spec"]["volumes"]
    ray = container(group["template"])
    assert ray["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
    assert volume["emptyDir"]["medium"] == "Memory"
    store, shared = int(group["rayStartParams"]["object-store-memory"]), num_bytes(volume["emptyDir"]["sizeLimit"])
    memory = num_bytes(ray["resources"]["limits"]["memory"])
    assert store < shared < memory / 2
    assert ray["resources"]["requests"] == ray["resources"]["limits"]


@pytest.mark.parametrize("group", WORKERS, ids=lambda group: group["groupName"])
def test_batches_fit_into_the_object_store_of_a_worker(group):
    store = int(group["rayStartParams"]["object-store-memory"])
    # Some wait before each of three stages, and the largest crops are those of fp32.
    check_batch_fits(3 * 4 * 16, "fp32", store)
