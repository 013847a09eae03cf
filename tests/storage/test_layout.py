import uuid

import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.layout import check_apart
from sam_pipeline.storage.run_ids import run_id


@pytest.mark.parametrize("name", ["prompts", "images/report.html", "masks/new/a"])
def test_nothing_is_to_be_written_where_a_run_keeps_its_tables(tmp_path, name):
    for output in (str(tmp_path), "memory://bucket/run"):
        with pytest.raises(ConfigError, match=rf"{name} lies in a table of {output}"):
            check_apart(f"{output}/{name}", output, {})


def test_a_link_leads_there_too(tmp_path):
    (tmp_path / "run" / "masks").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(ConfigError, match="lies in a table"):
        check_apart(str(tmp_path / "link" / "masks" / "a"), str(tmp_path / "run"), {})


def test_other_places_are_free(tmp_path):
    for name in ("report.html", "masks.html", "export/masks"):
        check_apart(str(tmp_path / name), str(tmp_path), {})
    check_apart("memory://bucket/run/masks", f"{tmp_path}/bucket/run", {})


def test_a_run_has_one_name_for_every_start_with_its_output():
    assert run_id("s3://bucket/masks") == "5992f565-a3dd-551e-ad65-28ac21cd958c"
    assert uuid.UUID(run_id("/data/masks")).version == 5
    assert run_id("/data/masks") != run_id("/data/masks2")
