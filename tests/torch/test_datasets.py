"""Datasets over real pictures: samples, workers that are forked and spawned, ranks, epochs, and what is missing."""

import json
import logging
import os
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from sam_pipeline import open_run
from sam_pipeline.errors import ConfigError, ImageError, OutputError
from sam_pipeline.torch import MaskDataset, MaskIterableDataset, MaskSampler, collate
from tests.end_to_end.pictures import HEIGHT, WIDTH, photo
from tests.results.picture_runs import PLACES, blob, files, num_masks_of, parquet, picture_run
from tests.storage.runs import failed_row, finished, mask, row

NUM_IMAGES = 11
WITH_MASKS = [image_id for image_id in range(NUM_IMAGES) if num_masks_of(image_id)]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A run of several files; the images lie in a Parquet file, of which workers read rows."""
    folder = tmp_path_factory.mktemp("pictures")
    return picture_run(folder / "run", parquet(folder / "in", NUM_IMAGES), per_shard=4)


def image_ids(batches):
    return [target["image_id"] for _, targets in batches for target in targets]


def test_a_sample_is_an_image_with_its_masks(output):
    dataset = MaskDataset(output)
    assert (len(dataset), dataset.image_ids.tolist()) == (NUM_IMAGES, list(range(NUM_IMAGES)))
    assert dataset.categories == {1: "object"}
    for position in range(NUM_IMAGES):
        image, target = dataset[position]
        assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.float32)
        assert np.array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), photo(position))
        assert target["image_id"] == position
        expected = [blob(10 * position + number)[1] for number in range(num_masks_of(position))]
        assert np.array_equal(target["masks"].numpy(), np.array(expected).reshape(-1, HEIGHT, WIDTH))
        assert target["labels"].tolist() == [1] * len(expected)
    assert dataset[-1][1]["image_id"] == NUM_IMAGES - 1
    for position in (NUM_IMAGES, -NUM_IMAGES - 1):
        with pytest.raises(IndexError, match=f"position {position} of {NUM_IMAGES} images"):
            dataset[position]
    assert sum(1 for _ in dataset) == NUM_IMAGES


@pytest.mark.parametrize("make", PLACES)
def test_images_come_from_wherever_they_are_and_upright(tmp_path, make):
    output = picture_run(tmp_path / "run", make(tmp_path / "in", 3, turned=True))
    for image, target in MaskDataset(output, transform=lambda image: image):
        assert np.array_equal(image, photo(target["image_id"]))


def test_transforms_make_what_is_wanted(output):
    flipped = MaskDataset(
        output,
        transform=lambda image: torch.from_numpy(image[:, ::-1].copy()),
        transforms=lambda image, target: (image, target | {"masks": target["masks"].flip(2)}),
    )
    image, target = flipped[3]
    assert np.array_equal(image.numpy(), photo(3)[:, ::-1])
    assert np.array_equal(target["masks"][0].numpy(), blob(30)[1][:, ::-1])


def test_a_selection_is_given_by_name_or_is_that_of_a_run(output):
    wanted = [mask["predicted_iou"] > 0.9 for mask in open_run(output).masks()]
    assert 0 < sum(wanted) < len(wanted)
    run = open_run(output).filter(pred_iou_thresh=0.9)
    for dataset in (
        MaskDataset(output, pred_iou_thresh=0.9),
        MaskDataset(run),
        MaskDataset(run, drop_contained="none"),
    ):
        assert sum(len(target["masks"]) for _, target in dataset) == sum(wanted)
        assert len(dataset) == NUM_IMAGES
    assert max(len(target["masks"]) for _, target in MaskDataset(run, max_masks=1)) == 1
    with pytest.raises(ConfigError, match="pred_iou_thres "):
        MaskDataset(output, pred_iou_thres=0.9)


def test_images_without_masks_are_kept_or_not(output):
    assert MaskDataset(output).image_ids.tolist() == list(range(NUM_IMAGES))
    dataset = MaskDataset(output, keep_empty=False)
    assert dataset.image_ids.tolist() == WITH_MASKS
    assert [target["image_id"] for _, target in dataset] == WITH_MASKS
    strict = MaskDataset(output, keep_empty=False, pred_iou_thresh=0.95)
    assert all(len(target["masks"]) for _, target in strict)
    assert 0 < len(strict) < len(dataset)
    assert len(MaskDataset(output, keep_empty=False, min_area=10**6)) == 0


def test_only_images_that_were_annotated_are_there(tmp_path):
    finished(str(tmp_path), [row(0), failed_row(1), row(2)], num_images=5)
    assert MaskDataset(tmp_path).image_ids.tolist() == [0, 2]
    assert list(MaskIterableDataset(tmp_path, missing="skip")) == []


SPAWNED = pytest.param(2, "spawn", marks=pytest.mark.soak)


@pytest.mark.parametrize(("num_workers", "context"), [(0, None), (2, "fork"), SPAWNED])
def test_workers_give_every_image_of_a_dataset_once(output, num_workers, context):
    options = {"num_workers": num_workers, "multiprocessing_context": context, "collate_fn": collate}
    dataset = MaskDataset(output)
    assert len(list(dataset)) == NUM_IMAGES, "delta-rs and Arrow have worked in this process before it is forked"
    assert image_ids(DataLoader(dataset, batch_size=3, **options)) == list(range(NUM_IMAGES))
    sampled = DataLoader(dataset, batch_size=3, sampler=MaskSampler(dataset), **options)
    assert sorted(image_ids(sampled)) == list(range(NUM_IMAGES))


@pytest.mark.parametrize(("num_workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
def test_workers_give_every_image_of_a_stream_once_an_epoch(output, num_workers, context):
    options = {"num_workers": num_workers, "multiprocessing_context": context, "collate_fn": collate}
    stream = MaskIterableDataset(output, shuffle=True)
    loader = DataLoader(stream, batch_size=3, persistent_workers=num_workers > 0, **options)
    epochs = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        epochs.append(image_ids(loader))
    assert [sorted(each) for each in epochs] == [list(range(NUM_IMAGES))] * 3
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2], "workers that persist see the new epoch"


@pytest.mark.parametrize("world_size", [2, 3, 16])
def test_ranks_and_workers_share_every_image(output, world_size):
    dataset = MaskDataset(output)
    for shuffle in (False, True):
        streamed, sampled = Counter(), Counter()
        for rank in range(world_size):
            ranks = {"rank": rank, "world_size": world_size, "shuffle": shuffle}
            stream = MaskIterableDataset(output, **ranks)
            stream.set_epoch(4)
            for worker in range(2):
                streamed.update(ids_of_worker(stream, worker, 2))
            sampler = MaskSampler(dataset, **ranks)
            sampler.set_epoch(4)
            drawn = list(sampler)
            assert len(sampler) == len(drawn)
            sampled.update(dataset.image_ids[drawn].tolist())
        assert streamed == sampled == Counter(range(NUM_IMAGES))


def ids_of_worker(stream, worker, num_workers):
    """What a worker of DataLoader would yield, without its process."""
    workers = torch.utils.data._utils.worker
    workers._worker_info = workers.WorkerInfo(id=worker, num_workers=num_workers, seed=0, dataset=stream)
    try:
        return [target["image_id"] for _, target in stream]
    finally:
        workers._worker_info = None


RANK = """
import json, sys
import torch.distributed
from torch.utils.data import DataLoader
from sam_pipeline.torch import MaskDataset, MaskIterableDataset, MaskSampler, collate

if __name__ == "__main__":
    output, store, rank, context = sys.argv[1:]
    stream, dataset = MaskIterableDataset(output, shuffle=True), MaskDataset(output)
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=2)
    options = dict(batch_size=2, num_workers=2, multiprocessing_context=context, collate_fn=collate)
    loaders = DataLoader(stream, **options), DataLoader(dataset, sampler=MaskSampler(dataset), **options)
    print(json.dumps([[t["image_id"] for _, targets in loader for t in targets] for loader in loaders]))
    torch.distributed.destroy_process_group()
"""


@pytest.mark.soak
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_ranks_of_torch_distributed_share_every_image(output, tmp_path, context):
    """The datasets are made before there are ranks; workers that are spawned have none."""
    (tmp_path / "rank.py").write_text(RANK)

    def start(rank):
        command = [sys.executable, tmp_path / "rank.py", output, tmp_path / "store", str(rank), context]
        path = os.pathsep.join(sys.path)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": path}
        )

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(start, range(2)))
    assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
    streamed, sampled = zip(*(json.loads(each.stdout) for each in done), strict=True)
    assert sorted(streamed[0] + streamed[1]) == sorted(sampled[0] + sampled[1]) == list(range(NUM_IMAGES))
    assert {len(each) for each in (*streamed, *sampled)} == {5, 6}


def test_a_dataset_is_pickled_without_the_rows_that_it_holds(output):
    dataset = MaskDataset(output)
    list(dataset)
    assert dataset.stored_rows._held
    again = pickle.loads(pickle.dumps(dataset))
    assert not again.stored_rows._held
    assert [target["image_id"] for _, target in again] == list(range(NUM_IMAGES))


def test_missing_originals_are_errors_or_left_out(tmp_path, caplog):
    place = files(tmp_path / "in", 6)
    output = picture_run(tmp_path / "run", place)
    (place / "0001.png").unlink()
    (place / "0002.png").write_bytes(b"?" * (place / "0002.png").stat().st_size)
    strict, lenient = MaskDataset(output), MaskDataset(output, missing="skip")
    for position in (1, 2):
        with pytest.raises(ImageError, match=rf"^cannot read image {position}, .*000{position}.png: ") as caught:
            strict[position]
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError):
        list(MaskIterableDataset(output))
    with caplog.at_level(logging.WARNING):
        assert [lenient[position] is None for position in range(6)] == [False, True, True, False, False, False]
    assert [record.getMessage()[:29] for record in caplog.records] == [
        "skipped: cannot read image 1,",
        "skipped: cannot read image 2,",
    ]
    kept = [0, 3, 4, 5]
    assert image_ids(DataLoader(lenient, batch_size=2, collate_fn=collate)) == kept
    assert [target["image_id"] for _, target in MaskIterableDataset(output, missing="skip")] == kept
    with pytest.raises(ConfigError, match="missing must be error or skip, got 'grey'"):
        MaskDataset(output, missing="grey")


def test_an_image_that_does_not_fit_its_masks_is_missing(tmp_path):
    output = picture_run(tmp_path / "run", files(tmp_path / "in", 1), make_masks=lambda _: [mask(0)], height=12)
    with pytest.raises(ImageError, match=r"image 0, .*, is not the one that was annotated: 96x128 pixels, not 12x128"):
        MaskDataset(output)[0]


def test_a_file_that_is_gone_is_an_output_error(tmp_path):
    output = picture_run(tmp_path / "run", files(tmp_path / "in", 2))
    dataset = MaskDataset(output)
    for path in Path(output, "masks").glob("*.parquet"):
        path.unlink()
    with pytest.raises(OutputError, match="cannot use output") as caught:
        dataset[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [MaskDataset, MaskIterableDataset])
def test_names_of_categories_may_be_given(tmp_path, make):
    masks = [blob(seed, category_id=category_id)[0] for seed, category_id in enumerate((2, 0, None))]
    output = picture_run(tmp_path / "run", files(tmp_path / "in", 1), make_masks=lambda _: masks)
    with pytest.raises(ConfigError, match=r"category [02] has no name"):
        make(output)
    (tmp_path / "names.txt").write_text("cat\ncup\ndog\n")
    for path in (tmp_path / "names.txt", str(tmp_path / "names.txt")):
        dataset = make(output, categories=path)
        ((_, target),) = iter(dataset)
        assert target["labels"].tolist() == [3, 1, 4]
        assert dataset.categories == {1: "cat", 2: "cup", 3: "dog", 4: "object"}


def test_a_batch_is_images_and_targets(output):
    dataset = MaskDataset(output)
    images, targets = collate([dataset[0], None, dataset[1]])
    assert [len(images), [target["image_id"] for target in targets]] == [2, [0, 1]]
    assert collate([None]) == ([], [])


@pytest.mark.s3
@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.soak)])
def test_workers_read_a_bucket(tmp_path, s3, monkeypatch, context):
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    bucket = s3.create_bucket()
    place = s3.put_folder(bucket, "in", files(tmp_path / "in", 5))
    output = picture_run(f"s3://{bucket}/run", place, per_shard=2)
    dataset = MaskDataset(output)
    assert len(list(dataset)) == 5
    loader = DataLoader(dataset, num_workers=2, multiprocessing_context=context, collate_fn=collate)
    assert image_ids(loader) == list(range(5))
