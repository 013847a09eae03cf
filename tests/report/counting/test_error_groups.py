"""Messages that say the same of different images."""

import time

import pytest

from sam_pipeline.report.counting.error_groups import same_in_all


@pytest.mark.parametrize(
    ("error", "same"),
    [
        ("cannot read 'a.jpg': it's gone", "cannot read …: it's gone"),
        (r"""no 'it\'s' in "the \"list\"" """, "no … in … "),
        ("'one' and \"two's\"", "… and …"),
        ("no end of 'this", "no end of 'this"),
    ],
)
def test_quoted_names_are_left_out(error, same):
    assert same_in_all(error, "file:///in/b.jpg") == same


@pytest.mark.parametrize("hostile", [r"it's \x01" + r"\x01" * 60, "'" + "\\" * 250, "'\\" * 150, "'" * 300])
def test_a_name_that_opens_a_quotation_costs_no_time(hostile):
    begun = time.monotonic()
    same_in_all(hostile, "file:///in/b.jpg")
    assert time.monotonic() - begun < 1
