"""The two-stage detector: our selection against torchvision's, on random weights."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign
from torchvision_split import split_torchvision_detector
from two_stage_reference import reference_boxes, reference_losses

from cdvision.errors import ModelError
from cdvision.export.onnx_graphs import export_graph
from cdvision.export.parity import check_parity
from cdvision.heads.class_scores import classification_from_logits
from cdvision.heads.pooled_classifier import PooledClassifier
from cdvision.heads.two_stage.box_coding import anchors_at, cell_anchors
from cdvision.heads.two_stage.config import TwoStageConfig
from cdvision.heads.two_stage.detector import detect_two_stage
from cdvision.heads.two_stage.graphs import dense_outputs, two_stage_graphs
from cdvision.heads.two_stage.mask_pasting import paste_masks
from cdvision.heads.two_stage.network import TwoStageDetector, build_two_stage_detector
from cdvision.heads.two_stage.proposals import propose_regions
from cdvision.heads.two_stage.roi_align import pool_regions
from cdvision.results import Detections, ResultError
from cdvision.results.masks import decode_mask, encode_mask

CHANNELS = (8, 16, 24, 32)
NAMES = tuple(f"class {number}" for number in range(7))


def small_detector(seed: int = 0, **settings: object) -> TwoStageDetector:
    """Build a narrow detector whose scores differ enough to have an order."""
    torch.manual_seed(seed)
    chosen = {"classes": 7, "channels": CHANNELS, "out_channels": 16, "representation": 32,
              "mask_channels": (8, 8), "anchor_sizes": (16, 32, 64, 128, 256)}  # fmt: skip
    detector = build_two_stage_detector(**{**chosen, **settings}).eval()
    with torch.no_grad():
        for layer in (detector.rpn.head.cls_logits, detector.rpn.head.bbox_pred):
            layer.weight *= 20
        detector.roi_heads.box_predictor.cls_score.weight *= 10
        if detector.has_masks:
            detector.roi_heads.mask_predictor.mask_fcn_logits.weight *= 5
    return detector


def random_stages(
    size: tuple[int, int], detector: TwoStageDetector, batch: int = 1, seed: int = 0
) -> list[torch.Tensor]:
    width, height = size
    generator = torch.Generator().manual_seed(seed)
    channels = [block[0].in_channels for block in detector.fpn.inner_blocks]
    return [
        torch.randn(batch, c, -(-height // s), -(-width // s), generator=generator)
        for c, s in zip(channels, detector.strides, strict=True)
    ]


class TorchGraphs:
    """Runs the dense graphs as an engine would."""

    def __init__(self, detector: TwoStageDetector) -> None:
        self.detector, self.graphs = detector, two_stage_graphs(detector)

    def __call__(self, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph = self.graphs[name]
        with torch.inference_mode():
            outputs = graph.module(*(torch.from_numpy(inputs[key]) for key in graph.inputs))
        return {key: value.numpy() for key, value in zip(graph.outputs, outputs, strict=True)}

    def dense(self, stages: list[torch.Tensor]) -> dict[str, np.ndarray]:
        return dense_maps(self.detector, stages)


def dense_maps(detector: TwoStageDetector, stages: list[torch.Tensor]) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        levels = list(detector.pyramid(stages).values())
        objectness, deltas = detector.rpn.head(levels)
    maps = (*levels[: len(detector.strides)], *objectness, *deltas)
    return {n: m[0].numpy() for n, m in zip(dense_outputs(detector), maps, strict=True)}


def assert_same(found: Detections, theirs: dict[str, torch.Tensor], scale: tuple[float, float]):
    """Compare with boxes in input pixels and 28 x 28 masks, as torchvision gives them."""
    boxes = theirs["boxes"].detach() * torch.tensor([*scale, *scale])
    assert len(found) == len(boxes) > 0
    np.testing.assert_allclose(found.xyxy, boxes.numpy(), atol=1e-3)
    np.testing.assert_allclose(found.confidence, theirs["scores"].detach().numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.class_id + 1, theirs["labels"].numpy())
    if "masks" in theirs:
        width, height = found.image_size
        pasted = paste_masks_in_image(theirs["masks"].detach(), boxes, (height, width)) > 0.5
        assert_same_masks(found, pasted[:, 0].numpy())


def assert_same_masks(found: Detections, theirs: np.ndarray) -> None:
    ours = np.stack([decode_mask(mask) for mask in found.mask or ()])
    assert (ours & theirs).sum() >= 0.999 * (ours | theirs).sum() > 100


@pytest.mark.parametrize(
    ("size", "content", "source"),
    [
        ((256, 192), (256, 192), (256, 192)),
        ((192, 256), (180, 250), (270, 375)),
        ((128, 128), (70, 65), (33, 31)),
        ((224, 160), (224, 160), (320, 229)),
    ],
)
def test_boxes_classes_scores_and_masks_equal_torchvisions(size, content, source):
    detector = small_detector()
    stages = random_stages(size, detector)
    with torch.inference_mode():
        (theirs,) = reference_boxes(detector, stages, [(content[1], content[0])])
    run = TorchGraphs(detector)
    found = detect_two_stage(
        run,
        run.dense(stages),
        config=detector.config,
        input_size=size,
        content_size=content,
        source_size=source,
        class_names=NAMES,
        masks=True,
    )
    assert_same(found, theirs, (source[0] / content[0], source[1] / content[1]))
    assert found.class_name[0] == NAMES[found.class_id[0]]


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_channels": None, "proposals_per_level": 60, "proposals": 40},
        {"channels": CHANNELS[:1], "strides": (16,), "extra_level": False, "anchor_sizes": (64,)},
        {"channels": CHANNELS[1:], "strides": (8, 16, 32), "anchor_sizes": (32, 64, 128, 256)},
    ],
)
def test_other_shapes_of_detector_equal_torchvision_too(settings):
    detector = small_detector(1, **settings)
    size = (256, 128)
    stages = random_stages(size, detector)
    with torch.inference_mode():
        (theirs,) = reference_boxes(detector, stages, [(120, 250)])
    run = TorchGraphs(detector)
    config = TwoStageConfig.from_dict(detector.config.to_dict())
    found = detect_two_stage(
        run, run.dense(stages), config=config, input_size=size, content_size=(250, 120),
        source_size=(250, 120), class_names=NAMES, masks=detector.has_masks,
    )  # fmt: skip
    assert_same(found, theirs, (1, 1))


def test_a_mask_r_cnn_finds_the_same_from_its_layer1_features_as_from_pixels():
    torch.manual_seed(0)
    size = {"min_size": 160, "max_size": 224, "box_detections_per_img": 30}
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=8, rpn_post_nms_top_n_test=300, **size
    ).eval()
    photo = torch.rand(3, 150, 210)
    front, tail, detector = split_torchvision_detector(model)
    with torch.inference_mode():
        (theirs,) = model([photo])
        pixels, _ = model.transform([photo])
        stages = list(tail(front(pixels.tensors)))
    (height, width) = pixels.image_sizes[0]
    run = TorchGraphs(detector)
    found = detect_two_stage(
        run,
        run.dense(stages),
        config=detector.config,
        input_size=(pixels.tensors.shape[3], pixels.tensors.shape[2]),
        content_size=(width, height),
        source_size=(210, 150),
        class_names=NAMES,
        max_detections=30,
        masks=True,
    )
    masks = theirs.pop("masks")[:, 0] > 0.5
    assert_same(found, theirs, (1, 1))
    assert_same_masks(found, masks.numpy())


@pytest.mark.skipif(not os.environ.get("CDVISION_SLOW"), reason="set CDVISION_SLOW: an export")
def test_exported_graphs_give_what_the_modules_give(tmp_path: Path):
    shape = {"channels": CHANNELS[1:3], "strides": (8, 16), "anchor_sizes": (32, 64, 128)}
    detector = small_detector(**shape)
    classifier = PooledClassifier(4, classes=3).eval()
    logits = classifier(torch.ones(1, 4, 5, 6))[0].detach().numpy()
    assert len(classification_from_logits(logits, ["a", "b", "c"], top=2).class_id) == 2
    sessions = {}
    for name, graph in two_stage_graphs(detector).items():
        state = {key: value.half() for key, value in graph.module.state_dict().items()}
        graph.module.load_state_dict(state)
        save_file(state, tmp_path / f"{name}.safetensors")
        path = tmp_path / f"{name}.onnx"
        export_graph(graph, path, tmp_path / f"{name}.safetensors")
        check_parity(graph, path)
        sessions[name] = (graph, ort.InferenceSession(path, providers=["CPUExecutionProvider"]))

    def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        graph, session = sessions[name]
        return dict(zip(graph.outputs, session.run(None, inputs), strict=True))

    stages = random_stages((192, 128), detector)
    with torch.inference_mode():
        (theirs,) = reference_boxes(detector, stages, [(128, 192)])
    dense = dense_maps(detector, stages)
    found = detect_two_stage(
        run, dense, config=detector.config, input_size=(192, 128), content_size=(192, 128),
        source_size=(192, 128), class_names=NAMES, masks=True,
    )  # fmt: skip
    assert_same(found, theirs, (1, 1))


def test_training_returns_losses_that_teach_the_head_and_reach_the_features():
    detector = small_detector(batch_size_per_image=32).train()
    stages = [stage.requires_grad_() for stage in random_stages((128, 96), detector, batch=2)]
    masks = torch.zeros(1, 96, 128, dtype=torch.uint8)
    masks[0, 20:80, 30:100] = 1
    targets = [
        {"boxes": torch.tensor([[30.0, 20, 100, 80]]), "labels": torch.tensor([7]), "masks": masks},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64),
         "masks": masks[:0]},
    ]  # fmt: skip
    optimiser = torch.optim.SGD(detector.parameters(), lr=0.01)
    totals = []
    for _ in range(5):
        losses = reference_losses(detector, stages, [(96, 128), (90, 120)], targets)
        assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier",
                               "loss_box_reg", "loss_mask"}  # fmt: skip
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]
    assert all(stage.grad is not None and stage.grad.abs().sum() > 0 for stage in stages)


def test_a_small_photo_in_a_large_input_does_not_change_the_strides():
    detector = small_detector()
    stages = random_stages((256, 256), detector)
    with torch.inference_mode():
        before = reference_boxes(detector, stages, [(256, 256)])[0]["boxes"]
        reference_boxes(detector, stages, [(40, 40)])
        fresh = small_detector()
        reference_boxes(fresh, stages, [(40, 40)])
        after = reference_boxes(fresh, stages, [(256, 256)])[0]["boxes"]
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize(("cells", "samples"), [(7, 2), (14, 2), (7, 3)])
def test_roi_align_equals_torchvisions_to_the_bit(cells, samples):
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(5, 200 // s, 328 // s)).astype(np.float32) for s in (4, 8, 16, 32)]
    corner, extent = rng.uniform(-20, 320, (400, 2)), rng.uniform(0, 300, (400, 2))
    boxes = np.concatenate([corner, corner + extent], 1).astype(np.float32)
    boxes[:4] = [[0, 0, 0, 0], [5, 5, 5, 9], [-900, -900, -800, -800], [0, 0, 328, 200]]
    levels = OrderedDict((str(n), torch.from_numpy(level)[None]) for n, level in enumerate(pyramid))
    pool = MultiScaleRoIAlign(list(levels), cells, samples)
    expected = pool(levels, [torch.from_numpy(boxes)], [(200, 328)]).numpy()
    found = pool_regions(pyramid, boxes, strides=(4, 8, 16, 32), cells=cells, samples=samples)
    np.testing.assert_array_equal(found, expected)


def test_roi_align_stays_inside_its_map_whatever_the_box():
    wild = np.array([[np.nan] * 4, [-1e30, 0, 1e30, 5], [0, 0, np.inf, np.inf]], np.float32)
    with np.errstate(all="ignore"):
        found = pool_regions([np.ones((2, 4, 4), np.float32)], wild, strides=(4,), cells=7,
                             samples=2)  # fmt: skip
    assert found.shape == (3, 2, 7, 7)
    assert (found[0] == 0).all()


def test_anchors_equal_torchvisions():
    sizes, ratios, grid = ((24, 100),), ((0.5, 1.0, 2.0),), (5, 7)
    ours = anchors_at(np.arange(5 * 7 * 6), cell_anchors(sizes[0], ratios[0]), grid, (225, 160))
    images = ImageList(torch.zeros(1).expand(1, 3, 160, 225), [(160, 225)])
    (theirs,) = AnchorGenerator(sizes, ratios)(images, [torch.zeros(1, 1, *grid)])
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_pasted_masks_are_torchvisions_pixels():
    rng = np.random.default_rng(0)
    corner, extent = rng.uniform(0, (70, 50), (40, 2)), rng.uniform(0.1, 50, (40, 2))
    boxes = np.concatenate([corner, np.minimum(corner + extent, (70, 50))], 1).astype(np.float32)
    boxes[:2] = [[0, 0, 70, 50], [69.5, 49.5, 70, 50]]
    maps = rng.uniform(size=(40, 28, 28)).astype(np.float32)
    maps[0] = 1
    found = paste_masks(maps, boxes, (70, 50))
    theirs = paste_masks_in_image(torch.from_numpy(maps)[:, None], torch.from_numpy(boxes),
                                  (50, 70))[:, 0] > 0.5  # fmt: skip
    different = sum(
        int((decode_mask(ours) != other).sum())
        for ours, other in zip(found, theirs.numpy(), strict=True)
    )
    assert different <= 2  # of 20,000: a probability of 0.5 but for its last bit
    assert encode_mask(decode_mask(found[0])) == found[0]
    assert found[0]["counts"] != found[1]["counts"]


def test_no_region_and_no_box_are_empty_results():
    detector = small_detector()
    run = TorchGraphs(detector)
    dense = run.dense(random_stages((64, 64), detector))
    options = {"config": detector.config, "input_size": (64, 64), "content_size": (64, 64),
               "source_size": (64, 64), "class_names": NAMES}  # fmt: skip
    nothing = detect_two_stage(run, dense, confidence=1.0, masks=True, **options)
    assert len(nothing) == 0
    assert nothing.mask == ()
    broken = {name: np.full_like(value, np.nan) for name, value in dense.items()}
    assert len(detect_two_stage(run, broken, **options)) == 0


def test_what_does_not_fit_is_refused():
    detector = small_detector(mask_channels=None)
    run = TorchGraphs(detector)
    dense = run.dense(random_stages((64, 64), detector))
    sizes = {"input_size": (64, 64), "content_size": (64, 64), "source_size": (64, 64)}
    config = detector.config
    with pytest.raises(ResultError, match="has no mask head"):
        detect_two_stage(run, dense, config=config, class_names=NAMES, masks=True, **sizes)
    with pytest.raises(ResultError, match="logits must be"):
        detect_two_stage(run, dense, config=config, class_names=NAMES[:3], **sizes)
    with pytest.raises(ResultError, match="objectness must be"):
        propose_regions({**dense, "objectness0": dense["deltas0"]}, config,
                        input_size=(64, 64), content_size=(64, 64))  # fmt: skip
    with pytest.raises(ModelError, match="expected 4 stages"):
        detector.pyramid(random_stages((64, 64), detector)[:2])
    with pytest.raises(ModelError, match="anchor size for each of 5 levels"):
        build_two_stage_detector(classes=3, anchor_sizes=(32, 64))
    with pytest.raises(ModelError, match="powers of 2"):
        TwoStageConfig.from_dict({**config.to_dict(), "strides": [3, 8, 16, 32]})
    with pytest.raises(ModelError, match=r"unknown fields \['colour'\]"):
        TwoStageConfig.from_dict({**config.to_dict(), "colour": 1})
