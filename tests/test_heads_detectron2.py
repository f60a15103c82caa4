"""Detectron2 on features; what needs Detectron2 itself is skipped where it cannot be imported."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import OrderedDict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from safetensors.torch import save_file

import cdvision
from cdvision.cli.command_line import command_line
from cdvision.errors import ModelError
from cdvision.models.dicm.zoo_weights import convert_zoo_checkpoint

needs_detectron2 = pytest.mark.skipif(
    find_spec("detectron2") is None or find_spec("pkg_resources") is None,
    reason="Detectron2 and its model zoo (setuptools < 81) are not installed",
)
PACKAGE = Path(__file__).parent / "packages" / "test-dicm-re"
CHANNELS = 16  # of that package's features
FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"
SETTINGS = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.ROI_HEADS.NUM_CLASSES", 5,
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 20,
            "MODEL.RPN.POST_NMS_TOPK_TEST", 100,
            "MODEL.PIXEL_STD", [58.0, 57.0, 57.0]]  # fmt: skip


@cache
def config_of(name: str):
    from detectron2 import model_zoo

    cfg = model_zoo.get_config(name)
    cfg.merge_from_list(SETTINGS)
    return cfg


def calm(model: torch.nn.Module) -> torch.nn.Module:
    """Keep random residual blocks from doubling what they get, which saturates every box."""
    for name, layer in model.named_modules():
        if name.endswith("conv3.norm"):
            layer.weight.fill_(0.2)
    return model


def narrow_config(channels: int = CHANNELS):
    """Return the FPN config with few channels, for features of so many."""
    from cdvision.models.dicm.detectron2 import stream_config

    cfg = stream_config(config_of(FPN), channels=channels, model=str(PACKAGE))
    cfg.merge_from_list(["MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.FPN.OUT_CHANNELS", 8,
                         "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
                         "MODEL.ROI_MASK_HEAD.NUM_CONV", 1])  # fmt: skip
    return cfg


def pickled(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_zoo_checkpoint_becomes_safetensors_with_a_warning(tmp_path, protocol):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = OrderedDict({"a.weight": weight.T, "a.steps": np.array(3)})
    content = {"model": model, "__author__": "someone", "scale": np.float64(2)}
    source = pickled(tmp_path / "model.pkl", content, protocol)
    with pytest.warns(UserWarning, match="reading a pickled file"):
        assert convert_zoo_checkpoint(source, tmp_path / "model.safetensors") == 2
    found = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(found["a.weight"], weight.T)
    assert found["a.steps"] == 3


def test_the_command_converts_and_warns(tmp_path):
    source = pickled(tmp_path / "zoo.pkl", {"model": {"a": np.ones(3, np.float32)}})
    result = CliRunner().invoke(command_line, ["train", "convert-zoo", str(source)])
    assert result.exit_code == 0, result.output
    assert "warning" in result.stderr
    assert "convert only files whose author you trust" in result.stderr
    assert result.stdout == f"{tmp_path / 'zoo.safetensors'}: 1 arrays\n"
    np.testing.assert_array_equal(load_file(tmp_path / "zoo.safetensors")["a"], np.ones(3))


class RunsACommand:
    def __reduce__(self):
        return eval, ("open('executed', 'w')",)


@pytest.mark.filterwarnings("ignore:.*reading a pickled file")
def test_a_pickle_that_is_more_than_arrays_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out.safetensors"
    with pytest.raises(ModelError, match=r"arrays only, found __builtin__\.eval"):
        convert_zoo_checkpoint(pickled(tmp_path / "a.pkl", {"model": RunsACommand()}), out)
    assert not (tmp_path / "executed").exists()
    for content, message in (
        ({"model": {"a": "text"}}, "a: expected an array, found str"),
        ({"model": {"a": np.array([None])}}, "a: expected an array"),
        ([1, 2], "expected a dict of arrays, found list"),
    ):
        with pytest.raises(ModelError, match=message):
            convert_zoo_checkpoint(pickled(tmp_path / "b.pkl", content), out)
    (tmp_path / "c.pkl").write_bytes(b"\x80\x02cut")
    with pytest.raises(ModelError, match="expected pickled arrays"):
        convert_zoo_checkpoint(tmp_path / "c.pkl", out)
    with pytest.raises(ModelError, match="cannot be read"):
        convert_zoo_checkpoint(tmp_path / "none.pkl", out)
    assert not out.exists()


@pytest.mark.skipif(find_spec("detectron2") is not None, reason="Detectron2 is installed")
def test_without_detectron2_the_import_says_where_to_get_it():
    code = "import cdvision.models.dicm.detectron2"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "install it by its own guide" in done.stderr.strip().splitlines()[-1]


@needs_detectron2
@pytest.mark.parametrize(("name", "padded"), [(FPN, (160, 224)), (C4, (150, 210))])
def test_the_same_boxes_from_res2_features_as_from_pixels(tmp_path, name, padded):
    from detectron2.modeling import build_model

    from cdvision.models.dicm.detectron2 import stream_config
    from cdvision.models.dicm.detectron2.streams import load_weights

    torch.manual_seed(0)
    pixels = calm(build_model(config_of(name))).eval()
    weights = {key: value.contiguous() for key, value in pixels.state_dict().items()}
    save_file(weights, tmp_path / "random.safetensors")
    streams = build_model(stream_config(config_of(name))).eval()
    load_weights(streams, tmp_path / "random.safetensors")
    resnet = getattr(pixels.backbone, "bottom_up", pixels.backbone)
    photo = {"image": torch.randint(0, 256, (3, 150, 210)).float(), "height": 300, "width": 420}
    with torch.inference_mode():
        expected = pixels([photo])[0]["instances"]
        images = pixels.preprocess_image([photo])
        assert tuple(images.tensor.shape[2:]) == padded
        features = resnet.res2(resnet.stem(images.tensor))[0]
        found = streams([{"features": features, "image_size": (150, 210), "height": 300,
                          "width": 420}])[0]["instances"]  # fmt: skip
    assert len(found) == len(expected) == 20
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor,
                               atol=1e-3, rtol=0)  # fmt: skip
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.equal(found.pred_masks, expected.pred_masks)


@needs_detectron2
def test_a_network_on_features_trains():
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    cfg = narrow_config()
    cfg.merge_from_list(["INPUT.MASK_FORMAT", "bitmask", "MODEL.RESNETS.NORM", "BN"])
    model = build_model(cfg).train()
    objects = Instances((90, 120))
    objects.gt_boxes = Boxes(torch.tensor([[20.0, 10, 90, 80]]))
    objects.gt_classes = torch.tensor([4])
    mask = torch.zeros(1, 90, 120, dtype=torch.bool)
    mask[0, 10:80, 20:90] = True
    objects.gt_masks = BitMasks(mask)
    features = torch.randn(CHANNELS, 32, 32, requires_grad=True)
    item = {"features": features, "image_size": (90, 120), "instances": objects}
    with EventStorage():
        losses = model([item, {**item, "features": torch.randn(CHANNELS, 24, 32)}])
    assert {"loss_mask", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"} == set(losses)
    sum(losses.values()).backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


@needs_detectron2
def test_a_predictor_takes_bytes_and_a_mapper_takes_their_file(tmp_path):
    from detectron2.structures import BoxMode

    from cdvision.models.dicm.detectron2 import CdvisionPredictor, map_stream

    photo = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    bits = cdvision.encode(photo, model=PACKAGE)
    found = CdvisionPredictor(narrow_config())(bits)
    assert found.image_size == (90, 120)
    assert len(found) > 0
    assert found.pred_masks.shape == (len(found), 90, 120)
    assert float(found.pred_boxes.tensor[:, 2].max()) <= 120
    (tmp_path / "photo.cdv").write_bytes(bits)
    objects = [
        {"bbox": [20, 10, 60, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3},
        {"bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1},
    ]
    record = {"file_name": str(tmp_path / "photo.cdv"), "annotations": objects}
    item = map_stream(record, narrow_config())
    height, width = item["image_size"]
    scale = torch.tensor([width / 120, height / 90] * 2)
    box = torch.tensor([[20.0, 10, 80, 50]])
    torch.testing.assert_close(item["instances"].gt_boxes.tensor, box * scale)
    assert item["instances"].gt_classes.tolist() == [3]
    with pytest.raises(ModelError, match="expected features of 32 channels at stride 4"):
        map_stream(record, narrow_config(32))


@needs_detectron2
def test_configs_and_weights_that_do_not_fit_are_refused(tmp_path):
    from cdvision.models.dicm.detectron2 import CdvisionPredictor, stream_config

    cfg = config_of(FPN).clone()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(ModelError, match=r"META_ARCHITECTURE: expected.*found 'RetinaNet'"):
        stream_config(cfg)
    narrow = narrow_config()
    narrow.MODEL.WEIGHTS = str(tmp_path / "model.pkl")
    with pytest.raises(ModelError, match="cdvision train convert-zoo"):
        CdvisionPredictor(narrow)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    narrow.MODEL.WEIGHTS = str(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="not weights of this network"):
        CdvisionPredictor(narrow)
