from dataclasses import fields

from sam_pipeline import ImageRow, MaskDict, PromptError
from sam_pipeline.masks.records import PromptedMaskRecord
from sam_pipeline.storage.tables.schema import MASK_TYPE, MASKS_SCHEMA, PROMPT_ERROR_TYPE


def test_the_schema_says_which_columns_there_are_and_all_others_agree():
    columns = {field.name for field in MASK_TYPE}
    assert set(MaskDict.__annotations__) == {field.name for field in fields(PromptedMaskRecord)} == columns
    assert list(ImageRow.__annotations__) == MASKS_SCHEMA.names
    assert list(PromptError.__annotations__) == [field.name for field in PROMPT_ERROR_TYPE]
