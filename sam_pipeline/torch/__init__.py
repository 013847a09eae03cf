"""The masks of a run as training data for PyTorch, read straight from its table.

    dataset = MaskDataset("run", pred_iou_thresh=0.9)
    loader = DataLoader(dataset, batch_size=8, sampler=MaskSampler(dataset), num_workers=4, collate_fn=collate)
    for images, targets in loader:
        ...

Targets are those of torchvision's detection models. Needs torch, which the package installs, and no torchvision.
"""

from sam_pipeline.torch.datasets import MaskDataset, MaskIterableDataset, collate
from sam_pipeline.torch.order import MaskSampler
from sam_pipeline.torch.targets import Target

__all__ = ["MaskDataset", "MaskIterableDataset", "MaskSampler", "Target", "collate"]
