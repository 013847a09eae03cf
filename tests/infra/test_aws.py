"""The files for AWS: judged by Ray's launcher, by moto, which stands in for AWS, and by a linter of policies."""

import copy
import json
import re
import subprocess
import sys
from contextlib import contextmanager

import boto3
import jsonschema
import moto
import pytest
import yaml
from botocore.client import BaseClient
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.command_runner import DockerCommandRunner, SSHCommandRunner
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_CLUSTER_NAME, TAG_RAY_NODE_KIND

from tests.infra.files import INFRA, ROOT

FOLDER = INFRA / "aws"
CLUSTER = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())
TYPES = CLUSTER["available_node_types"]
REGION = CLUSTER["provider"]["region"]
POLICIES = ["head-policy.json", "image-policy.json", "s3-policy-vacuum.json", "s3-policy.json"]
LIFECYCLE = json.loads((FOLDER / "s3-lifecycle.json").read_text())

# Whoever starts machines must be allowed to use what they are made of. The right to start them is tied to the cluster's
# tag, which only machines have, and so has a statement of its own. The linter wants both in one.
SPLIT = {"head-policy.json": 2}


def statements(name):
    return {each["Sid"]: each for each in json.loads((FOLDER / name).read_text())["Statement"]}


def as_list(value):
    return [value] if isinstance(value, str) else value


def linted(policy):
    """What Parliament has to say of a policy, a finding a line."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.infra.lint_policy"],
        cwd=ROOT,
        input=policy,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode == bool(done.stdout)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", POLICIES)
def test_the_linter_knows_every_action_resource_and_condition(name):
    findings = linted((FOLDER / name).read_text())
    assert len(findings) == SPLIT.get(name, 0)
    assert all("No resources match" in finding and "ec2:RunInstances" in finding for finding in findings)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("s3:AbortMultipartUpload", "s3:AbortUpload"),
        ("arn:aws:s3:::OUTPUT-BUCKET/masks/*", "arn:aws:s3:::OUTPUT-BUCKET"),
        ("s3:prefix", "s3:prefixes"),
        ("2012-10-17", "2012-10-18"),
    ],
)
def test_the_linter_finds_what_is_wrong(right, wrong):
    policy = (FOLDER / "s3-policy.json").read_text()
    assert right in policy
    assert linted(policy.replace(right, wrong))


def test_a_run_may_read_its_input_and_write_its_output_and_delete_nothing():
    policy = statements("s3-policy.json")
    assert {sid: sorted(as_list(each["Action"])) for sid, each in policy.items()} == {
        "ReadInput": ["s3:GetObject"],
        "ListInput": ["s3:ListBucket"],
        "ListOutput": ["s3:ListBucket"],
        "ReadAndWriteOutput": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
    }
    # The folder's own name, too: a start looks whether it is an object.
    assert policy["ReadInput"]["Resource"] == [
        "arn:aws:s3:::INPUT-BUCKET/photos",
        "arn:aws:s3:::INPUT-BUCKET/photos/*",
    ]
    assert policy["ReadAndWriteOutput"]["Resource"] == "arn:aws:s3:::OUTPUT-BUCKET/masks/*"


def test_only_vacuum_may_delete_and_only_shards():
    policy = statements("s3-policy-vacuum.json")
    deleting = {sid: each["Resource"] for sid, each in policy.items() if "s3:DeleteObject" in as_list(each["Action"])}
    assert deleting == {
        "DeleteShardsButNoLog": [
            "arn:aws:s3:::OUTPUT-BUCKET/masks/images/part-*",
            "arn:aws:s3:::OUTPUT-BUCKET/masks/masks/part-*",
            "arn:aws:s3:::OUTPUT-BUCKET/masks/prompts/part-*",
        ]
    }
    assert not any("INPUT-BUCKET" in str(each["Resource"]) for each in policy.values())


@pytest.mark.parametrize("name", POLICIES)
def test_policies_allow_no_wildcard_action_and_list_by_prefix(name):
    for each in statements(name).values():
        assert each["Effect"] == "Allow"
        assert "*" not in "".join(as_list(each["Action"]))
        if each["Action"] == "s3:ListBucket":
            assert each["Condition"].keys() == {"StringLike"}
            assert each["Condition"]["StringLike"].keys() == {"s3:prefix"}


@pytest.mark.parametrize("name", ["s3-policy.json", "s3-policy-vacuum.json"])
def test_what_may_be_read_may_be_listed(name):
    # Otherwise S3 answers 403 in place of 404 where there is no such object.
    listed, read = set(), set()
    for each in statements(name).values():
        if each["Action"] == "s3:ListBucket":
            prefixes = as_list(each["Condition"]["StringLike"]["s3:prefix"])
            listed |= {f"{each['Resource']}/{prefix}" for prefix in prefixes}
        elif "s3:GetObject" in as_list(each["Action"]):
            read |= set(as_list(each["Resource"]))
    assert read == listed


def test_the_lifecycle_never_deletes_a_file_of_a_table_by_its_age():
    for rule in LIFECYCLE["Rules"]:
        assert rule["Filter"] == {"Prefix": "masks/"}
        assert set(rule.get("Expiration", {})) <= {"ExpiredObjectDeleteMarker"}
        assert not {"Transition", "Transitions"} & rule.keys(), "no shard may need to be restored before it is read"


def test_s3_takes_the_lifecycle_and_iam_the_policies():
    with moto.mock_aws():
        s3, iam = boto3.client("s3", region_name=REGION), boto3.client("iam", region_name=REGION)
        s3.create_bucket(Bucket="output")
        s3.put_bucket_lifecycle_configuration(Bucket="output", LifecycleConfiguration=LIFECYCLE)
        stored = s3.get_bucket_lifecycle_configuration(Bucket="output")["Rules"]
        assert [rule["ID"] for rule in stored] == [rule["ID"] for rule in LIFECYCLE["Rules"]]
        for name in POLICIES:
            iam.create_policy(PolicyName=name.removesuffix(".json"), PolicyDocument=(FOLDER / name).read_text())
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=(FOLDER / "trust-policy.json").read_text())


def test_every_file_is_judged():
    files = {*POLICIES, "trust-policy.json", "s3-lifecycle.json", "ray-cluster.yaml"}
    assert {path.name for path in FOLDER.iterdir()} == files


def test_ray_takes_the_cluster_and_installs_nothing_of_its_own():
    config = prepare_config(copy.deepcopy(CLUSTER))
    validate_config(config)
    commands = [command for name, value in config.items() if name.endswith("_commands") for command in value]
    assert len(commands) == 6
    assert not any("pip install" in command for command in commands)


@pytest.mark.parametrize(
    ("place", "name"),
    [((), "max_worker"), (("docker",), "run_option"), (("available_node_types", "head"), "node_configuration")],
)
def test_ray_refuses_an_unknown_field(place, name):
    config = part = prepare_config(copy.deepcopy(CLUSTER))
    for step in place:
        part = part[step]
    part[name] = 1
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


def test_the_dashboard_listens_on_loopback_and_the_head_does_no_work():
    (start,) = [command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--num-cpus=0" in start
    assert TYPES["head"]["resources"] == {"CPU": 0}


def test_only_workers_may_be_taken_away_and_only_the_head_may_start_machines():
    assert "InstanceMarketOptions" not in TYPES["head"]["node_config"]
    assert TYPES["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert TYPES["head"]["node_config"]["IamInstanceProfile"] == {"Name": "sam-head"}
    assert TYPES["gpu-spot"]["node_config"]["IamInstanceProfile"] == {"Name": "sam-worker"}


@pytest.fixture
def account(monkeypatch):
    """An account of a stand-in for AWS, with what the cluster names; gives the cluster with the account's ids."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with moto.mock_aws():
        ec2, iam = boto3.client("ec2", region_name=REGION), boto3.client("iam", region_name=REGION)
        (network, *_) = ec2.describe_subnets()["Subnets"]
        group = ec2.create_security_group(GroupName="ray", Description="ray", VpcId=network["VpcId"])["GroupId"]
        ec2.create_key_pair(KeyName="sam-pipeline")
        for name in ("sam-head", "sam-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        config = prepare_config(copy.deepcopy(CLUSTER))
        for node_type in config["available_node_types"].values():
            node_type["node_config"] |= {
                "ImageId": ec2.describe_images()["Images"][0]["ImageId"],
                "SecurityGroupIds": [group],
                "SubnetIds": [network["SubnetId"]],
            }
        yield config


def test_the_autoscaler_starts_and_ends_spot_machines_with_what_the_head_may_do(account, tmp_path):
    account["auth"]["ssh_private_key"] = str(tmp_path / "key.pem")
    (tmp_path / "key.pem").touch()
    config = bootstrap_aws(account)
    called = set()
    with recorded(called):
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        worker = config["available_node_types"]["gpu-spot"]["node_config"]
        provider.create_node(worker, {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}, 1)
        (node_id,) = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_WORKER})
        provider.set_node_tags(node_id, {"ray-node-status": "up-to-date"})
    (machine,) = machines()
    assert (machine["InstanceType"], machine["InstanceLifecycle"]) == ("p5.4xlarge", "spot")
    assert {"Key": TAG_RAY_CLUSTER_NAME, "Value": "sam-pipeline"} in machine["Tags"]
    with recorded(called):
        provider.terminate_nodes([node_id])
    assert machines()[0]["State"]["Name"] in ("shutting-down", "terminated")

    allowed = {action for each in statements("head-policy.json").values() for action in as_list(each["Action"])}
    assert called <= allowed
    assert allowed - called == {"iam:PassRole"}, "EC2 asks for this one itself"


def machines():
    reservations = boto3.client("ec2", region_name=REGION).describe_instances()["Reservations"]
    return [machine for reservation in reservations for machine in reservation["Instances"]]


@contextmanager
def recorded(called):
    """Add the name of every call of AWS to a set."""
    make_api_call = BaseClient._make_api_call

    def record(self, operation_name, parameters):
        called.add(f"{self.meta.service_model.service_name}:{operation_name}")
        return make_api_call(self, operation_name, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", record)
        yield


def test_what_the_head_may_do_to_machines_is_tied_to_the_tag_that_ray_gives_them():
    policy = statements("head-policy.json")
    for sid, key in (("StartMachinesOfTheCluster", "RequestTag"), ("TagAndEndMachinesOfTheCluster", "ResourceTag")):
        condition = policy[sid]["Condition"]["StringEquals"]
        assert condition == {f"aws:{key}/{TAG_RAY_CLUSTER_NAME}": CLUSTER["cluster_name"]}


ANSWERS = {
    "command -v docker": "/usr/bin/docker",
    "State.Running": "false",
    "Config.Env": '["PATH=/usr/local/bin"]',
    "printenv HOME": "/home/sam",
    "meminfo": "16000000",
    "docker info": "nvidia-container-runtime",
}
"""Of a machine, to what Ray's launcher asks it."""


@pytest.mark.parametrize("as_head", [True, False], ids=["head", "worker"])
def test_containers_of_workers_are_given_the_gpus_and_the_image_has_what_is_called_in_it(as_head, monkeypatch):
    called = []

    def run(_, command, *__, with_output=False, **___):
        called.append(command)
        answer = next((answer for asked, answer in ANSWERS.items() if asked in command), "")
        return answer.encode() if with_output else answer

    monkeypatch.setattr(SSHCommandRunner, "run", run)
    runner = DockerCommandRunner(
        CLUSTER["docker"], log_prefix="", node_id="i-1", provider=None, auth_config=CLUSTER["auth"],
        cluster_name="sam-pipeline", process_runner=subprocess, use_internal_ip=False,
    )  # fmt: skip
    mounts = {**CLUSTER["file_mounts"], "~/ray_bootstrap_config.yaml": "config.yaml"}
    assert runner.run_init(as_head=as_head, file_mounts=mounts, sync_run_yet=True)
    (start,) = [command for command in called if command.startswith("docker run")]
    assert ("--gpus=all" in start) is not as_head
    assert "--volume=/tmp/ray:/tmp/ray" in start
    assert any("rsync -e 'docker exec -i'" in command and "sam-pipeline:/home/sam/" in command for command in called)
    installed = (INFRA / "docker" / "Dockerfile").read_text()
    assert re.search(r"apt-get install .* openssh-client rsync\b", installed), "the autoscaler starts workers by ssh"
