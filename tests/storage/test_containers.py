from sam_pipeline.storage import containers
from sam_pipeline.storage.containers import fetch_images
from sam_pipeline.storage.sources.source_image import SourceImage


def test_images_of_many_web_hosts_are_fetched_some_at_once_and_those_of_buckets_apart(monkeypatch):
    asked = []
    monkeypatch.setattr(
        containers,
        "fetch",
        lambda images, *_, **__: asked.append(len(images)) or [image.uri.encode() for image in images],
    )
    uris = [*(f"https://host-{number}/a.jpg" for number in range(10)), "s3://a/a.jpg", "s3://b/a.jpg", "s3://b/b.jpg"]
    found = list(fetch_images([SourceImage(uri, None, None) for uri in uris], {}, None))
    assert found == [uri.encode() for uri in uris]
    assert asked == [8, 2, 1, 2]
