"""What the official package's notebooks for predictor and generator call, cell by cell, with other pictures and words.

Each cell is the code of one of theirs without its plots. Files: first.png (512 x 512) and second.png (400 x 600);
`model_type` and `sam_checkpoint` are there.
"""

PREDICTOR = [
    """
    import cv2
    import numpy as np
    import torch

    image = cv2.cvtColor(cv2.imread("first.png"), cv2.COLOR_BGR2RGB)
    """,
    """
    from segment_anything import sam_model_registry, SamPredictor

    device = "cpu"
    sam = sam_model_registry[model_type](checkpoint=sam_checkpoint)
    sam.to(device=device)
    predictor = SamPredictor(sam)
    """,
    "predictor.set_image(image)",
    """
    point = np.array([[220, 130]])
    label = np.array([1])
    masks, scores, logits = predictor.predict(point_coords=point, point_labels=label, multimask_output=True)
    shape = masks.shape
    """,
    """
    two_points = np.array([[220, 130], [200, 420]])
    best = logits[np.argmax(scores), :, :]
    masks, _, _ = predictor.predict(
        point_coords=two_points, point_labels=np.array([1, 1]), mask_input=best[None, :, :], multimask_output=False
    )
    shape = masks.shape
    """,
    """
    masks, _, _ = predictor.predict(
        point_coords=two_points, point_labels=np.array([1, 0]), mask_input=best[None, :, :], multimask_output=False
    )
    """,
    """
    box = np.array([150, 20, 320, 300])
    masks, _, _ = predictor.predict(point_coords=None, point_labels=None, box=box[None, :], multimask_output=False)
    first_mask = masks[0]
    """,
    """
    masks, _, _ = predictor.predict(
        point_coords=np.array([[230, 60]]), point_labels=np.array([0]), box=box, multimask_output=False
    )
    """,
    """
    boxes = torch.tensor([[150, 20, 320, 300], [300, 10, 480, 200], [0, 300, 200, 510]], device=predictor.device)
    moved_boxes = predictor.transform.apply_boxes_torch(boxes, image.shape[:2])
    masks, _, _ = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=moved_boxes, multimask_output=False
    )
    shape = masks.shape
    arrays = [mask.cpu().numpy() for mask in masks]
    """,
    """
    image2 = cv2.cvtColor(cv2.imread("second.png"), cv2.COLOR_BGR2RGB)
    boxes2 = torch.tensor([[160, 90, 470, 330], [10, 10, 100, 100]], device=sam.device)
    """,
    """
    from segment_anything.utils.transforms import ResizeLongestSide

    resize = ResizeLongestSide(sam.image_encoder.img_size)

    def prepare(image, transform, model):
        image = torch.as_tensor(transform.apply_image(image), device=model.device)
        return image.permute(2, 0, 1).contiguous()
    """,
    """
    batch = [
        {
            "image": prepare(image, resize, sam),
            "boxes": resize.apply_boxes_torch(boxes, image.shape[:2]),
            "original_size": image.shape[:2],
        },
        {
            "image": prepare(image2, resize, sam),
            "boxes": resize.apply_boxes_torch(boxes2, image2.shape[:2]),
            "original_size": image2.shape[:2],
        },
    ]
    """,
    """
    outputs = sam(batch, multimask_output=False)
    keys = list(outputs[0].keys())
    """,
]

GENERATOR = [
    """
    import cv2
    import numpy as np
    import torch

    def coloured(annotations):
        ordered = sorted(annotations, key=lambda annotation: annotation["area"], reverse=True)
        first = ordered[0]["segmentation"]
        picture = np.zeros((first.shape[0], first.shape[1], 4))
        for number, annotation in enumerate(ordered):
            picture[annotation["segmentation"]] = [number, 0, 0, 0.35]
        return picture
    """,
    'image = cv2.cvtColor(cv2.imread("second.png"), cv2.COLOR_BGR2RGB)',
    """
    from segment_anything import sam_model_registry, SamAutomaticMaskGenerator, SamPredictor

    sam = sam_model_registry[model_type](checkpoint=sam_checkpoint)
    sam.to(device="cpu")
    mask_generator = SamAutomaticMaskGenerator(sam)
    """,
    "masks = mask_generator.generate(image)",
    "number = len(masks)",
    "keys = list(masks[0].keys())",
    "picture = coloured(masks)",
    """
    mask_generator_2 = SamAutomaticMaskGenerator(
        model=sam,
        points_per_side=32,
        pred_iou_thresh=0.86,
        stability_score_thresh=0.92,
        crop_n_layers=1,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=100,
    )
    """,
    "masks2 = mask_generator_2.generate(image)",
    "number2 = len(masks2)",
    "picture2 = coloured(masks2)",
]
