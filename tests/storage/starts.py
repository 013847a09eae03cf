"""Records of starts made by hand."""

from sam_pipeline.storage.tables.results import MaskTable
from sam_pipeline.storage.tables.start_records import EndRecord, StartRecord
from tests.storage.runs import FINGERPRINT


def start_record(start_id="a"):
    versions = {"sam_pipeline": "0.1.0", "python": "3.11.9", "ray": "2.60.0", "torch": "2.13.0"}
    return StartRecord(
        start_id=start_id,
        started="2026-11-29T04:25:00+00:00",
        user="someone",
        host="a-host",
        versions=versions,
        model_type="vit_t",
        weights_sha256="aa",
        cluster={"nodes": 2, "cpus": 8.0, "gpus": 1.0, "gpu_types": ["H100"]},
    )


def end_record(**changes):
    given = {"ended": "2026-11-29T05:25:00+00:00", "outcome": "finished", "error": None, "num_by_status": {"ok": 2}}
    given |= {"num_masks": 4, "num_bytes": 9000, "elapsed_s": 3600.0, "images_per_s": 0.001}
    return EndRecord(**{**given, "cpu_hours": 8.0, "gpu_hours": 1.0, **changes})


def start(output, start_id="a", fingerprint=FINGERPRINT):
    """Take results over as a start of annotate does; returns the table."""
    return MaskTable.take_over(output, fingerprint, {"config": "{}"}, {}, start_record(start_id))
