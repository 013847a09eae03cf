from benchmarks.commands.reading import COLUMNS, ROOT, in_checkout
from tests.storage.image_files import noise, saved


def test_a_checkout_is_measured_in_a_process_of_its_own(tmp_path):
    file = tmp_path / "image.jpg"
    file.write_bytes(saved(noise(60, 90), "JPEG"))
    measured = in_checkout(ROOT, file, 1)
    assert tuple(measured) == COLUMNS
    assert all(value > 0 for value in measured.values())
