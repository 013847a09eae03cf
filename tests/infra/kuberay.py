"""KubeRay's objects as a JSON schema that refuses every field it does not know.

KubeRay's own schema is in no package index. So this one was written from its API reference (docs.ray.io, "KubeRay CRD
API reference", of v1.6.2). It knows the fields that infra/ uses, with the reference's names and types, and the rules
of names. Of the rules between fields it knows that an age is for a cluster that is deleted; the operator has more. Pods
in it are judged by Kubernetes' own schema, from the package kubernetes-validate.
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

KUBERNETES = "1.37.0"
_DEFINITIONS = f"kubernetes-json-schema/v{KUBERNETES}-local-strict/_definitions.json"


def check(document: dict[str, Any]) -> None:
    """Check a RayJob or a RayCluster.

    Raises:
        jsonschema.ValidationError: KubeRay or Kubernetes would not know it as it stands.
    """
    definitions = Resource.from_contents(schema_contents(_DEFINITIONS, KUBERNETES))
    schema = _SCHEMAS[document["kind"]]
    Draft202012Validator(schema, registry=definitions @ Registry()).validate(document)


def _kubernetes(name: str) -> dict[str, str]:
    return {"$ref": f"https://kubernetes.io/api/_definitions.json#/$defs/io.k8s.{name}"}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_TEXT, _BOOLEAN, _COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
_POD = _kubernetes("api.core.v1.PodTemplateSpec")
_RAY_START_PARAMS = {"type": "object", "additionalProperties": _TEXT}

_WORKER_GROUP = _object(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    rayStartParams=_RAY_START_PARAMS,
    template=_POD,
)
_CLUSTER_SPEC = _object(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    authOptions=_object((), mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=_BOOLEAN,
    autoscalerOptions=_object(
        (),
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=_COUNT,
        resources=_kubernetes("api.core.v1.ResourceRequirements"),
        securityContext=_kubernetes("api.core.v1.SecurityContext"),
    ),
    headGroupSpec=_object(("template",), rayStartParams=_RAY_START_PARAMS, template=_POD),
    workerGroupSpecs={"type": "array", "items": _WORKER_GROUP},
)
_JOB_SPEC = _object(
    ("rayClusterSpec", "entrypoint"),
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    entrypoint=_TEXT,
    backoffLimit=_COUNT,
    submitterConfig=_object((), backoffLimit=_COUNT),
    shutdownAfterJobFinishes=_BOOLEAN,
    ttlSecondsAfterFinished=_COUNT,
    submitterPodTemplate=_POD,
    rayClusterSpec=_CLUSTER_SPEC,
) | {
    "if": {"properties": {"ttlSecondsAfterFinished": {"minimum": 1}}, "required": ["ttlSecondsAfterFinished"]},
    "then": {"properties": {"shutdownAfterJobFinishes": {"const": True}}, "required": ["shutdownAfterJobFinishes"]},
}


def _document(kind: str, spec: dict[str, Any], longest_name: int) -> dict[str, Any]:
    # The operator makes names of services of it, a letter first and 63 characters at most.
    name = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": longest_name}
    metadata = {"allOf": [_kubernetes("apimachinery.pkg.apis.meta.v1.ObjectMeta"), {"properties": {"name": name}}]}
    fields = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": kind}, "metadata": metadata, "spec": spec}
    return _object(tuple(fields), **fields)


_SCHEMAS = {"RayJob": _document("RayJob", _JOB_SPEC, 47), "RayCluster": _document("RayCluster", _CLUSTER_SPEC, 53)}
