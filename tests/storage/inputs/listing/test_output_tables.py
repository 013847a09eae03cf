import pytest

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.inputs.listing.output_tables import check_apart


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "ds")


@pytest.mark.parametrize(
    "images",
    [
        "{}/ds/images",
        "{}/ds/masks/",
        "{}/ds/prompts/sub",
        "{}/ds/images/*.jpg",
        "{}/ds/images/sub/*/*.jpg",
        "{}/ds/masks/a.tar",
        "{}/ds",
        "{}/ds/../ds/images",
    ],
)
def test_an_input_where_a_table_would_be_is_refused(tmp_path, output, images):
    with pytest.raises(ConfigError, match="use another output"):
        check_apart(images.format(tmp_path), output, {})


@pytest.mark.parametrize("images", ["s3://b/ds/images", "s3://b/ds/masks/*.jpg", "s3a://b/ds", "s3://b/ds/images/x"])
def test_so_it_is_on_an_object_store(images):
    with pytest.raises(ConfigError, match="use another output"):
        check_apart(images, "s3://b/ds", {})


@pytest.mark.parametrize("link_to", ["ds/images", "ds/images/sub", "ds"])
def test_a_link_is_where_it_leads(tmp_path, output, link_to):
    (tmp_path / link_to).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / link_to)
    with pytest.raises(ConfigError, match="use another output"):
        check_apart(str(tmp_path / "link"), output, {})


@pytest.mark.parametrize(
    "images",
    [
        "{}",
        "{}/ds/photos",
        "{}/ds/images-2",
        "{}/ds/*.jpg",
        "{}/ds/*/*.jpg",
        "{}/*/images/*.jpg",
        "{}/ds.tar",
        "{}/ds/list.csv",
        "s3://b/ds/images",
        "hf://datasets/a/b",
    ],
)
def test_any_other_input_is_accepted(tmp_path, output, images):
    check_apart(images.format(tmp_path), output, {})
