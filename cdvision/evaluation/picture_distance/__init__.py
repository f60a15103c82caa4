"""How far decoded pictures are from the originals: error, structure, LPIPS and DISTS."""

from __future__ import annotations

from cdvision.evaluation.picture_distance.picture_judge import PictureJudge
from cdvision.evaluation.picture_distance.pixel_error import psnr
from cdvision.evaluation.picture_distance.structural_similarity import ms_ssim

__all__ = ["PictureJudge", "ms_ssim", "psnr"]
