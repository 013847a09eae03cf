"""What is the same of every mask in a results table."""

NO_PROMPT = dict.fromkeys(("prompt_id", "prompt_box", "point_labels", "category_id", "score"))
"""What a mask of the grid has in the fields of a prompt."""
