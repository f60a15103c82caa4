"""Many streams at once: ``Model.analyze`` and what it is made of."""

from __future__ import annotations

from cdvision.analysis.analyzer import BATCH_SIZE, Analyzer
from cdvision.analysis.result import AnalysisResult, StreamItem, StreamItems

__all__ = ["BATCH_SIZE", "AnalysisResult", "Analyzer", "StreamItem", "StreamItems"]
