from sam_pipeline.config import PoolConfig
from sam_pipeline.pipeline.machines.division_text import division_lines
from sam_pipeline.pipeline.machines.resources import Cluster, divide

CPUS = """\
16 CPUs and 0 GPUs are divided, to each stage at most:
  read       6 tasks   1 CPU
  encode     1 actor   1.5 CPU                1 at once, 4 threads
  decode     4 actors  1.5 CPU                4 threads
  write      4 tasks   0.5 CPU                4 images a shard"""

GPUS = """\
48 CPUs and 3 GPUs are divided, to each stage at most:
  read      38 tasks   1 CPU
  encode     1 actor   1 CPU + 1 GPU          16 at once, on large
  decode     2 actors  1.08 CPU + 1 GPU       on small
  write     12 tasks   0.5 CPU                256 images a shard"""


def test_each_stage_has_a_line():
    cluster = Cluster(16, 0, 16, 0, 0, 0, 16)
    assert division_lines(divide(PoolConfig(), "auto", "vit_t", cluster), cluster) == CPUS.splitlines()


def test_gpus_and_where_they_are_stand_in_it():
    cluster = Cluster(48, 3, 16, 0, 0, 16, 16, {"large": 1, "small": 2})
    divided = divide(PoolConfig(encode_on="large", decode_on="small"), "auto", "vit_h", cluster)
    assert division_lines(divided, cluster) == GPUS.splitlines()
